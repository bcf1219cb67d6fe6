package cloud

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/state"
)

// Pages of a long list, filtered or not, have every record once, whatever is
// deleted between two of them.
func TestPagesHaveEverythingOnce(t *testing.T) {
	c, client := newTestCloud(t)
	client = steady(client)
	const all, every = 3000, 7
	err := c.db.Update(func(tx *state.Tx) error {
		for n := range all {
			v := &state.Volume{Meta: state.Meta{Account: DefaultAccount, Region: "us-east-1", ID: fmt.Sprintf("vol-%017x", n), Tags: map[string]string{"n": strconv.Itoa(n % every)}}}
			v.State, v.Ready, v.Size, v.Zone, v.Type = state.VolumeAvailable, true, 1, "us-east-1a", "gp3"
			if err := state.Put(tx, v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		in   ec2.DescribeVolumesInput
		want int
	}{
		{ec2.DescribeVolumesInput{}, all},
		{ec2.DescribeVolumesInput{MaxResults: aws.Int32(1000)}, all},
		{ec2.DescribeVolumesInput{MaxResults: aws.Int32(700)}, all},
		{ec2.DescribeVolumesInput{MaxResults: aws.Int32(100), Filters: filters("tag:n", "3")}, all/every + 1},
		{ec2.DescribeVolumesInput{MaxResults: aws.Int32(5), Filters: filters("tag:n", "none")}, 0},
	} {
		seen := map[string]bool{}
		pages := 0
		for p := ec2.NewDescribeVolumesPaginator(client, &tc.in); p.HasMorePages(); pages++ {
			page, err := p.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range page.Volumes {
				if seen[*v.VolumeId] {
					t.Errorf("%s comes twice", *v.VolumeId)
				}
				seen[*v.VolumeId] = true
			}
		}
		if len(seen) != tc.want {
			t.Errorf("%d pages of %d with %v have %d volumes, want %d", pages, aws.ToInt32(tc.in.MaxResults), tc.in.Filters, len(seen), tc.want)
		}
	}
	first, err := client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(10)})
	if err != nil {
		t.Fatal(err)
	}
	last := first.Volumes[9]
	if err := c.db.Update(func(tx *state.Tx) error {
		return state.Delete(tx, &state.Volume{Meta: state.Meta{Account: DefaultAccount, Region: "us-east-1", ID: *last.VolumeId}})
	}); err != nil {
		t.Fatal(err)
	}
	next, err := client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(10), NextToken: first.NextToken})
	if err != nil || *next.Volumes[0].VolumeId != fmt.Sprintf("vol-%017x", 10) {
		t.Errorf("after a page whose last one is gone: %v, %v", next, err)
	}
	_, err = client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(10), NextToken: aws.String("what")})
	wantCode(t, err, "InvalidNextToken")
	_, err = client.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(-1)})
	wantCode(t, err, "InvalidParameterValue")
}
