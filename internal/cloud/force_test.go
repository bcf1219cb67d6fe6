package cloud

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
)

// clingy guests never let go of a disk.
type clingy struct {
	*moody
	seized atomic.Int32
}

type clingyVM struct {
	vm
	c *clingy
}

func (c *clingy) start(ctx context.Context, spec machine.Spec) (vm, error) {
	v, err := c.moody.start(ctx, spec)
	return clingyVM{v, c}, err
}

func (clingyVM) Detach(context.Context, string, time.Duration) error { return machine.ErrGuestHolds }

func (v clingyVM) Seize(context.Context, string) error {
	v.c.seized.Add(1)
	return nil
}

// A volume stuck in detaching stays so until it is detached by force.
func TestDetachByForce(t *testing.T) {
	m := &moody{}
	c, client, _ := openMoody(t, Dir(t.TempDir()), m)
	c.work.wait()
	held := &clingy{moody: m}
	c.hyper = held
	id, _ := rooted(t, c, client)
	data := *describe(t, client, id).BlockDeviceMappings[1].Ebs.VolumeId
	if _, err := client.DetachVolume(t.Context(), &ec2.DetachVolumeInput{VolumeId: &data}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if s := volumeState(t, client, data); s != types.VolumeStateInUse {
			t.Fatalf("the volume is %s while the guest holds it", s)
		}
		time.Sleep(2 * time.Millisecond)
	}
	if _, err := client.DetachVolume(t.Context(), &ec2.DetachVolumeInput{VolumeId: &data, Force: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the volume is free", func() bool { return volumeState(t, client, data) == types.VolumeStateAvailable })
	if n := held.seized.Load(); n != 1 {
		t.Errorf("it was taken %d times", n)
	}
}
