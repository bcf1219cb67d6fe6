package server_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/steadcloud/stead/internal/blocks"
	"github.com/steadcloud/stead/internal/blocks/blockstest"
	"github.com/steadcloud/stead/internal/server"
)

// cloudOf is a bench with direct APIs in memory beside its EC2: what they start
// is a snapshot there too.
type cloudOf struct {
	*bench
	blocks *blockstest.Endpoint
	direct *ebs.Client
}

func newCloudOf(t *testing.T, rt http.RoundTripper) *cloudOf {
	t.Helper()
	c := &cloudOf{bench: newBench(t, rt), blocks: &blockstest.Endpoint{New: nil, Find: contentOf}}
	c.blocks.New = c.emptySnapshot
	srv := httptest.NewServer(c.blocks)
	t.Cleanup(srv.Close)
	c.direct = ebs.New(ebs.Options{Region: c.region, BaseEndpoint: &srv.URL, Credentials: c.keys, HTTPClient: c.http(rt), APIOptions: []func(*middleware.Stack) error{noteCalls}})
	return c
}

// contentOf makes up what a snapshot holds: a block that all have, one of its
// own, and one that half of them have.
func contentOf(id string) *blockstest.Snapshot {
	s := &blockstest.Snapshot{ID: id, State: "completed", SizeGiB: 1, Blocks: map[int32][]byte{0: bytes.Repeat([]byte{1}, blocks.Size)}}
	own := sha256.Sum256([]byte(id))
	s.Blocks[5] = bytes.Repeat(own[:], blocks.Size/len(own))
	if own[0]%2 == 0 {
		s.Blocks[9] = bytes.Repeat([]byte{2}, blocks.Size)
	}
	return s
}

// emptySnapshot makes a snapshot of a blank disk.
func (c *cloudOf) emptySnapshot(sizeGiB int64, tags map[string]string, description string) (string, error) {
	ctx := context.Background()
	direct := c.through(nil) // the endpoint's own doing can't be cut off
	v, err := direct.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(c.region + "a"), Size: aws.Int32(int32(sizeGiB))})
	if err != nil {
		return "", err
	}
	c.available(*v.VolumeId)
	spec := types.TagSpecification{ResourceType: types.ResourceTypeSnapshot}
	for key, value := range tags {
		spec.Tags = append(spec.Tags, types.Tag{Key: &key, Value: &value})
	}
	s, err := direct.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: v.VolumeId, Description: &description, TagSpecifications: []types.TagSpecification{spec}})
	if err != nil {
		return "", err
	}
	c.completed(*s.SnapshotId)
	_, err = direct.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: v.VolumeId})
	return *s.SnapshotId, err
}

// directEC2 is an EC2 that shows a snapshot as pending as long as the direct
// APIs do.
type directEC2 struct {
	server.EC2
	blocks *blockstest.Endpoint
}

func (d directEC2) DescribeSnapshots(ctx context.Context, in *ec2.DescribeSnapshotsInput, opts ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	out, err := d.EC2.DescribeSnapshots(ctx, in, opts...)
	if err != nil {
		return nil, err
	}
	for k := range out.Snapshots {
		if s := d.blocks.Get(*out.Snapshots[k].SnapshotId); s != nil {
			out.Snapshots[k].State = types.SnapshotState(s.State)
		}
	}
	return out, nil
}

func (c *cloudOf) managerCalled(name, journals string) *server.Manager {
	cfg := c.config(c.client)
	cfg.EC2, cfg.Blocks, cfg.Name, cfg.Journals = directEC2{cfg.EC2, c.blocks}, c.direct, name, journals
	return server.New(cfg)
}

// arrivedWhole checks that the server runs there of what its disks held here.
func (c *cloudOf) arrivedWhole(there *server.Manager, tapes int) {
	c.t.Helper()
	c.whole(there, 2)
	out, err := c.client.DescribeSnapshots(context.Background(), &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}})
	c.check(err)
	copies := 0
	for _, s := range out.Snapshots {
		if strings.HasPrefix(tag(s.Tags, "stead:step"), "move ") {
			c.t.Errorf("%s of the first pass is left: %v", *s.SnapshotId, s.Tags)
		}
		of := tag(s.Tags, "stead:copy-of")
		if of == "" {
			continue
		}
		copies++
		got := c.blocks.Get(*s.SnapshotId)
		if got == nil || !maps.EqualFunc(got.Blocks, contentOf(of).Blocks, bytes.Equal) {
			c.t.Errorf("%s isn't what %s is", *s.SnapshotId, of)
		}
	}
	if copies != tapes || c.blocks.Pending() != 0 {
		c.t.Errorf("there are %d copies, not %d, and %d pending", copies, tapes, c.blocks.Pending())
	}
}

func TestMachineMoveContextKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	near, far := newCloudOf(t, k), newCloudOf(t, k)
	journals := t.TempDir()
	m, there := near.managerCalled("here", journals), far.managerCalled("lab", journals)
	ctx := t.Context()
	moves := 0
	everyStep(t, k,
		func(int) {
			near.clear(m)
			far.clear(there)
			_, err := m.Create(ctx, near.faultOptions())
			near.check(err)
		},
		func(ctx context.Context, _ int) error {
			_, err := m.Move(ctx, "web", server.MoveOptions{To: "lab", There: there})
			return err
		},
		func(int) {
			moves++
			far.arrivedWhole(there, 2*moves)
			old, err := m.Get(ctx, "web")
			near.check(err)
			if old.State != server.StateStopped || len(near.inventory().volumes) != 2 || !strings.Contains(strings.Join(old.Warnings, " "), "context lab") {
				t.Errorf("left behind %+v", old)
			}
			sets, err := m.Snapshots(ctx, "web")
			near.check(err)
			for _, set := range sets {
				if strings.HasPrefix(set.ID, "first-") {
					t.Errorf("set %s is left", set.ID)
				}
			}
		})
	// What is here goes when nothing has run here since.
	_, err := m.Start(ctx, "web", server.WaitRunning)
	near.check(err)
	if old, err := m.Get(ctx, "web"); err != nil || len(old.Warnings) != 0 {
		t.Errorf("started again: %+v, %v", old, err)
	}
	release := server.MoveOptions{To: "lab", There: there, Release: true}
	if _, err := m.Move(ctx, "web", release); !errors.Is(err, server.ErrProtected) {
		t.Errorf("released though it ran: %v", err)
	}
}

func TestMoveContextCopiesWhatDiffers(t *testing.T) {
	t.Parallel()
	near, far := newCloudOf(t, nil), newCloudOf(t, nil)
	m, there := near.managerCalled("here", ""), far.managerCalled("lab", "")
	ctx := t.Context()
	o := near.faultOptions()
	_, err := m.Create(ctx, o)
	near.check(err)
	r, err := m.Move(ctx, "web", server.MoveOptions{To: "lab", There: there})
	near.check(err)
	if r.From != "here" || r.Downtime <= 0 || len(r.Source) != 2 || r.Server.State != server.StateRunning {
		t.Errorf("moved: %+v", r)
	}
	if n := near.blocks.Count("ListChangedBlocks"); n == 0 {
		t.Error("nothing was asked for differences")
	}
	far.arrivedWhole(there, 2)
	release := server.MoveOptions{To: "lab", There: there, Release: true}
	left, err := m.MoveLeft(ctx, "web", release)
	near.check(err)
	if len(left) != 2 {
		t.Errorf("left are %+v", left)
	}
	_, err = m.Move(ctx, "web", release)
	near.check(err)
	if inv := near.inventory(); len(inv.live)+len(inv.volumes)+len(inv.addresses) != 0 || inv.snapshots != 2 {
		t.Errorf("left behind %+v", inv)
	}
	far.whole(there, 2)
	// A release that is over but for its answer.
	if _, err := m.Move(ctx, "web", release); err != nil {
		t.Errorf("released twice: %v", err)
	}
	// It comes back, and goes once more, over what earlier moves have left.
	for k, back := range []struct {
		from, to *server.Manager
		name     string
		cloud    *cloudOf
	}{{there, m, "here", near}, {m, there, "lab", far}} {
		o := server.MoveOptions{To: back.name, There: back.to}
		if r, err := back.from.Move(ctx, "web", o); err != nil || r.Server.State != server.StateRunning {
			t.Fatalf("move %d: %+v, %v", k+2, r, err)
		}
		back.cloud.whole(back.to, 2)
		o.Release = true
		_, err := back.from.Move(ctx, "web", o)
		near.check(err)
	}
}

func TestMoveContextRefuses(t *testing.T) {
	t.Parallel()
	near, far := newCloudOf(t, nil), newCloudOf(t, nil)
	m, there := near.managerCalled("here", ""), far.managerCalled("lab", "")
	ctx := t.Context()
	web, err := m.Create(ctx, near.faultOptions())
	near.check(err)
	refused := func(what string, o server.MoveOptions, want error) {
		t.Helper()
		_, err := m.Move(ctx, "web", o)
		if !errors.Is(err, want) || server.Remedy(err) == "" {
			t.Errorf("%s: %v (%s)", what, err, server.Remedy(err))
		}
		if s, err := m.Get(ctx, "web"); err != nil || s.State != server.StateRunning || near.inventory().snapshots != 0 {
			t.Fatalf("%s changed something: %+v %v", what, s, err)
		}
	}
	to := server.MoveOptions{To: "lab", There: there}
	refused("without direct APIs", server.MoveOptions{To: "lab", There: far.manager(far.client)}, server.ErrUnsupported)
	refused("release before the move", server.MoveOptions{To: "lab", There: there, Release: true}, server.ErrExists)
	refused("no such type", server.MoveOptions{To: "lab", There: there, Type: "x9.none"}, server.ErrUsage)
	_, err = near.client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{web.Root.VolumeID}, Tags: []types.Tag{{Key: aws.String("stead:kernel"), Value: aws.String("aki-0123456789abcdef0")}}})
	near.check(err)
	refused("a kernel that isn't there", to, server.ErrUnsupported)
	_, err = near.client.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{web.Root.VolumeID}, Tags: []types.Tag{{Key: aws.String("stead:kernel")}}})
	near.check(err)
	_, err = there.Create(ctx, far.faultOptions())
	far.check(err)
	refused("another of its name", to, server.ErrExists)
}
