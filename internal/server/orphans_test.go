package server_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/price"
	"github.com/steadcloud/stead/internal/server"
)

// priced is a Manager that knows AWS's prices, as if the bench's region were
// the one that they are of.
func (b *bench) priced(api server.EC2) *server.Manager {
	prices, err := price.New()
	b.check(err)
	return server.New(server.Config{EC2: api, Region: price.TableRegion, Prices: prices})
}

// orphanage finds orphans, those aside that the endpoint came with.
type orphanage struct {
	*bench
	known map[string]server.Orphan
}

func newOrphanage(b *bench) *orphanage {
	o := &orphanage{bench: b}
	o.known = o.found(b.manager(b.client))
	return o
}

func (b *orphanage) found(m *server.Manager) map[string]server.Orphan {
	b.t.Helper()
	list, err := m.Orphans(context.Background())
	b.check(err)
	byID := map[string]server.Orphan{}
	for _, o := range list {
		if o.Remove == "" || o.Reason == "" || !strings.Contains(o.Remove, o.ID) {
			b.t.Errorf("orphan %+v", o)
		}
		if _, old := b.known[o.ID]; !old {
			byID[o.ID] = o
		}
	}
	return byID
}

// Trap 15: what is left unattached, half made or forgotten is found with its
// reason and price, what belongs to a server is not, and nothing is deleted.
func TestTrap15OrphansAreFound(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newOrphanage(newBench(t, k))
	m, priced := b.manager(b.client), b.priced(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.Snapshot(t.Context(), "web", server.SnapshotOptions{Wait: true})
	b.check(err)
	if list := b.found(priced); len(list) != 0 {
		t.Errorf("a server's own things are orphans: %+v", list)
	}

	loose, err := b.client.CreateVolume(t.Context(), &ec2.CreateVolumeInput{AvailabilityZone: aws.String(b.region + "a"), Size: aws.Int32(10), VolumeType: types.VolumeTypeGp3})
	b.check(err)
	b.available(*loose.VolumeId)
	tape, err := b.client.CreateSnapshot(t.Context(), &ec2.CreateSnapshotInput{VolumeId: loose.VolumeId})
	b.check(err)
	address, err := b.client.AllocateAddress(t.Context(), &ec2.AllocateAddressInput{Domain: types.DomainTypeVpc})
	b.check(err)
	foreign, err := b.client.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: &b.imageID, InstanceType: "t3.micro", MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
	b.check(err)
	list := b.found(priced)
	for id, want := range map[string][3]string{
		*loose.VolumeId:                  {"plugged in nowhere", "stead volume rm ", "0.80"},
		*tape.SnapshotId:                 {"in no server's set", "stead ec2 delsnap ", ""},
		*address.AllocationId:            {"assigned to nothing", "aws ec2 release-address", "3.65"},
		*foreign.Instances[0].InstanceId: {"no server", "stead ec2 kill ", "7.59"},
	} {
		o := list[id]
		if !strings.Contains(o.Reason, want[0]) || !strings.HasPrefix(o.Remove, want[1]) || o.Month == nil || want[2] != "" && o.Month.Cents() != want[2] {
			t.Errorf("%s is %+v, a month %v", id, o, o.Month)
		}
	}

	// A rescue that is cut short leaves a stand-in, and says how to go on.
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	before := b.found(priced)
	if fired, err := k.killed(2, func(ctx context.Context) error {
		_, err := m.Rescue(ctx, "web", server.RescueOptions{By: server.RescueSwap})
		return err
	}); !fired || err == nil {
		t.Fatal("the rescue wasn't interrupted")
	}
	kinds := []string{}
	for id, o := range b.found(priced) {
		if _, known := before[id]; !known {
			kinds = append(kinds, o.Kind)
			if o.Reason != "a rescue of web isn't finished" || o.Finish != "stead rescue web" {
				t.Errorf("%s of an unfinished rescue: %+v", id, o)
			}
		}
	}
	if slices.Sort(kinds); !slices.Equal(kinds, []string{"instance", "volume"}) {
		t.Errorf("an unfinished rescue leaves %v", kinds)
	}
	_, err = m.Rescue(t.Context(), "web", server.RescueOptions{})
	b.check(err)
	if after := b.found(priced); len(after) != len(before) {
		t.Errorf("after the rescue there are %d orphans, before it %d", len(after), len(before))
	}

	// A rescue by snapshot keeps the old disks, which go on to cost.
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	r, err := m.Rescue(t.Context(), "web", server.RescueOptions{By: server.RescueSnapshot})
	b.check(err)
	list = b.found(priced)
	for _, d := range r.Superseded {
		if o := list[d.VolumeID]; !strings.Contains(o.Reason, "replaced by "+d.SupersededBy) {
			t.Errorf("%s is %+v", d.VolumeID, o)
		}
	}
	if _, listed := list[r.Image]; listed {
		t.Error("the rescue image of a server is an orphan")
	}
	for id, o := range b.found(m) {
		if o.Month != nil {
			t.Errorf("without prices %s costs %v", id, o.Month)
		}
	}
}

// What is left of a server without disks is its own as long as it can come
// back from it, and an orphan after that.
func TestOrphansOfVanishedServer(t *testing.T) {
	t.Parallel()
	b := newOrphanage(newBench(t, nil))
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	set, err := m.Snapshot(t.Context(), "web", server.SnapshotOptions{Wait: true})
	b.check(err)
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	for id := range b.inventory().volumes {
		b.deleteVolume(id)
	}
	if list := b.found(m); len(list) != 0 {
		t.Errorf("a server that can be rescued is %+v", list)
	}
	_, err = b.client.DeleteSnapshot(t.Context(), &ec2.DeleteSnapshotInput{SnapshotId: &set.Snapshots[0].SnapshotID})
	b.check(err)
	list := b.found(m)
	if o := list[set.Snapshots[1].SnapshotID]; !strings.Contains(o.Reason, "neither disks nor a complete set") {
		t.Errorf("half a set is %+v", o)
	}
	for _, a := range b.inventory().addresses {
		if o := list[*a.AllocationId]; o.Reason != "of server web, which is gone" {
			t.Errorf("its address is %+v", o)
		}
	}
}

// What a server costs on the endpoint, with snapshots as a range, and where it
// tells no prices of its own none are made up.
func TestCosts(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.webOptions())
	b.check(err)
	for range 2 {
		_, err = m.Snapshot(t.Context(), "web", server.SnapshotOptions{Wait: true})
		b.check(err)
	}
	prices, err := price.New()
	b.check(err)
	costs, err := m.Costs(t.Context(), server.CostOptions{Name: "web", Prices: prices, Region: price.TableRegion, EgressGiB: 600, Own: true})
	b.check(err)
	c := costs[0]
	running, known := c.Total(price.OnDemand)
	if !known || running.Low < 15_180000+35*80000+3_650000+45_000000 || c.RAMMiB != 2048 || len(c.Missing) > 0 {
		t.Errorf("web costs %s (%v), with %d MiB, missing %v", running.Cents(), known, c.RAMMiB, c.Missing)
	}
	if !strings.Contains(c.Answer, "dearer than") || !strings.Contains(c.Answer, "Lightsail's 2 GB at $12.00") {
		t.Errorf("the answer is %q", c.Answer)
	}
	for _, l := range c.Lines {
		if l.Item == "snapshots" && (l.Quantity != 6 || l.Month.High < l.Month.Low) {
			t.Errorf("snapshots are %+v", l)
		}
	}
	if _, err := m.Costs(t.Context(), server.CostOptions{Name: "nobody", Prices: prices}); server.KindOf(err) != server.KindNotFound {
		t.Errorf("nobody costs: %v", err)
	}
}
