package cloud

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func tag(key, value string) types.Tag { return types.Tag{Key: &key, Value: &value} }

// tagsOf reads the tags of one resource back.
func tagsOf(t *testing.T, client *ec2.Client, id string) (tags map[string]string, kind types.ResourceType) {
	t.Helper()
	out, err := client.DescribeTags(context.Background(), &ec2.DescribeTagsInput{Filters: filters("resource-id", id)})
	if err != nil {
		t.Fatal(err)
	}
	tags = map[string]string{}
	for _, d := range out.Tags {
		tags[*d.Key], kind = *d.Value, d.ResourceType
	}
	return tags, kind
}

// oneOfEach gives a resource of every kind that takes tags, by its type.
func oneOfEach(t *testing.T, c *Cloud, client *ec2.Client) map[types.ResourceType]string {
	t.Helper()
	ctx := context.Background()
	vpcs, err := client.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})
	if err != nil {
		t.Fatal(err)
	}
	subnets, err := client.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := client.DescribeSecurityGroupRules(ctx, &ec2.DescribeSecurityGroupRulesInput{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := client.ImportKeyPair(ctx, &ec2.ImportKeyPairInput{KeyName: aws.String("k"), PublicKeyMaterial: []byte(edPublic)})
	if err != nil {
		t.Fatal(err)
	}
	snap := &state.Snapshot{Meta: c.meta(testScope, "snap"), State: state.SnapshotCompleted}
	img := &state.Image{Meta: c.meta(testScope, "ami"), State: state.ImageAvailable, Owner: testScope.Account, Type: "machine"}
	vol := &state.Volume{Meta: c.meta(testScope, "vol"), State: state.VolumeAvailable, Zone: "us-east-1a", Size: 1, Ready: true}
	err = c.db.Update(func(tx *state.Tx) error {
		for _, rec := range []state.Record{snap, img, vol} {
			if err := state.Put(tx, rec); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return map[types.ResourceType]string{
		types.ResourceTypeInstance: putInstance(t, c, state.Stopped, nil).ID, types.ResourceTypeVolume: vol.ID,
		types.ResourceTypeSnapshot: snap.ID, types.ResourceTypeImage: img.ID, types.ResourceTypeKeyPair: *key.KeyPairId,
		types.ResourceTypeSecurityGroup: makeGroup(t, client, "g"), types.ResourceTypeSecurityGroupRule: *rules.SecurityGroupRules[0].SecurityGroupRuleId,
		types.ResourceTypeElasticIp: *allocate(t, client).AllocationId, types.ResourceTypeVpc: *vpcs.Vpcs[0].VpcId,
		types.ResourceTypeSubnet: *subnets.Subnets[0].SubnetId,
	}
}

func TestTagsOfEveryKind(t *testing.T) {
	c, client := newTestCloud(t)
	ctx := context.Background()
	each := oneOfEach(t, c, client)
	var ids []string
	for _, id := range each {
		ids = append(ids, id)
	}
	if _, err := client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: []types.Tag{tag("a", "1"), tag("empty", "")}}); err != nil {
		t.Fatal(err)
	}
	for kind, id := range each {
		got, gotKind := tagsOf(t, client, id)
		if gotKind != kind || !maps.Equal(got, map[string]string{"a": "1", "empty": ""}) {
			t.Errorf("%s %s has %v as a %s", kind, id, got, gotKind)
		}
		prefix, _, _ := strings.Cut(id, "-")
		_, err := client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{prefix + "-0000000000000000f"}, Tags: []types.Tag{tag("a", "1")}})
		if err == nil || !strings.Contains(err.Error(), "NotFound") {
			t.Errorf("an absent %s is refused with %v", kind, err)
		}
	}
	all := 0
	for p := ec2.NewDescribeTagsPaginator(client, &ec2.DescribeTagsInput{MaxResults: aws.Int32(3), Filters: filters("key", "a", "value", "1")}); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		all += len(page.Tags)
	}
	if all != len(each) {
		t.Errorf("pages give %d tags, want %d", all, len(each))
	}
}

func TestDeleteTags(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	id := *allocate(t, client).AllocationId
	for i, tt := range []struct {
		remove []types.Tag
		want   map[string]string
	}{
		{[]types.Tag{{Key: aws.String("a")}}, map[string]string{"b": "2", "c": ""}},
		{[]types.Tag{tag("a", "1"), tag("b", "other")}, map[string]string{"b": "2", "c": ""}},
		{[]types.Tag{tag("a", ""), tag("c", "")}, map[string]string{"a": "1", "b": "2"}},
		{[]types.Tag{{Key: aws.String("absent")}}, map[string]string{"a": "1", "b": "2", "c": ""}},
		{nil, map[string]string{}},
	} {
		if _, err := client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{tag("a", "1"), tag("b", "2"), tag("c", "")}}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{id}, Tags: tt.remove}); err != nil {
			t.Fatal(err)
		}
		if got, _ := tagsOf(t, client, id); !maps.Equal(got, tt.want) {
			t.Errorf("case %d leaves %v, want %v", i, got, tt.want)
		}
	}
}

func TestCreateTagsRefuses(t *testing.T) {
	_, client := newTestCloud(t)
	ctx := context.Background()
	id := *allocate(t, client).AllocationId
	var many []types.Tag
	for i := range 51 {
		many = append(many, tag(fmt.Sprint("k", i), "v"))
	}
	for name, tt := range map[string]struct {
		ids  []string
		tags []types.Tag
		code string
	}{
		"bad ID":     {[]string{id, "x"}, []types.Tag{tag("a", "1")}, "InvalidID"},
		"bad digits": {[]string{id, "vol-xyz"}, []types.Tag{tag("a", "1")}, "InvalidID"},
		"absent":     {[]string{id, "vol-0000000000000000f"}, []types.Tag{tag("a", "1")}, "InvalidVolume.NotFound"},
		"reserved":   {[]string{id}, []types.Tag{tag("a", "1"), tag("aws:b", "2")}, "InvalidParameterValue"},
		"too many":   {[]string{id}, many, "TagLimitExceeded"},
		"no key":     {[]string{id}, []types.Tag{tag("", "1")}, "InvalidParameterValue"},
		"long value": {[]string{id}, []types.Tag{tag("a", strings.Repeat("x", 257))}, "InvalidParameterValue"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: tt.ids, Tags: tt.tags})
			wantCode(t, err, tt.code)
			if got, _ := tagsOf(t, client, id); len(got) > 0 {
				t.Errorf("a refused call left %v", got)
			}
		})
	}
}
