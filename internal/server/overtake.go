package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// What lets several rescues of one server go on from each other's steps: to
// see that anything has changed, and by whom.

// awaitChange waits until anything of a server isn't as it was seen. Waiting
// for one certain state could wait in vain: another rescue may bring the
// stand-in through it between two looks.
func (m *Manager) awaitChange(ctx context.Context, w *world) error {
	was := w.print()
	last := w
	err := m.poll(ctx, m.stateTimeout, "the rescue to go on", "server "+w.name, func(ctx context.Context) (bool, error) {
		now, err := m.observe(ctx, w.name)
		if err == nil {
			last = now
		}
		return err == nil && now.print() != was, err
	})
	if KindOf(err) != KindTimeout {
		return err
	}
	for _, v := range slices.Concat(last.volumes, last.stubs) {
		for _, a := range v.Attachments {
			if a.State == types.VolumeAttachmentStateDetaching {
				return stuck(aws.ToString(v.VolumeId), aws.ToString(a.InstanceId), err)
			}
		}
	}
	return err
}

// print is a text that changes with whatever a swap changes.
func (w *world) print() string {
	var lines []string
	add := func(as string, i *types.Instance) {
		if i != nil {
			lines = append(lines, printOf(as, i))
		}
	}
	add("instance", w.instance)
	add("stand-in", w.standIn)
	for k := range w.extra {
		add("extra", &w.extra[k])
	}
	for k := range w.dead {
		add("dead", &w.dead[k])
	}
	for _, v := range slices.Concat(w.volumes, w.stubs, w.coming) {
		line := fmt.Sprintln(aws.ToString(v.VolumeId), v.State)
		for _, a := range v.Attachments {
			line += fmt.Sprintln(aws.ToString(a.InstanceId), aws.ToString(a.Device), a.State)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines) // no endpoint promises an order
	return strings.Join(lines, "")
}

// printOf tells two moments of an instance apart also where its state is the
// same in both.
func printOf(as string, i *types.Instance) string {
	return fmt.Sprintln(as, aws.ToString(i.InstanceId), stateOf(i), aws.ToTime(i.LaunchTime).UnixNano(), aws.ToString(i.StateTransitionReason))
}

// overtaken tells a step that failed because another rescue was quicker from
// one that fails by itself: then nothing has changed since it was chosen.
func overtaken(err error, before, after *world) bool {
	if kind := KindOf(err); kind == KindInterrupted || kind == KindTimeout || kind == KindAuth {
		return false
	}
	return before.print() != after.print()
}

// failedToRun tells whether a stand-in that was about to run has died by
// itself, which another launch or start wouldn't mend.
func (w *world) failedToRun(was *types.Instance) error {
	if stateOf(was) != types.InstanceStateNamePending && stateOf(was) != types.InstanceStateNameStopped {
		return nil
	}
	now := w.dead
	if w.standIn != nil {
		now = append(slices.Clone(now), *w.standIn)
	}
	for k := range now {
		i := &now[k]
		if isInstance(i, aws.ToString(was.InstanceId)) && !sameMoment(i, was) && diedByItself(i) {
			return diedWaiting(i, types.InstanceStateNameRunning)
		}
	}
	return nil
}

// sameMoment tells that an instance hasn't been through anything between two
// looks.
func sameMoment(a, b *types.Instance) bool { return printOf("", a) == printOf("", b) }

// diedByItself tells that an instance ended, and that nobody asked it to.
func diedByItself(i *types.Instance) bool {
	if state := stateOf(i); state == types.InstanceStateNamePending || state == types.InstanceStateNameRunning {
		return false
	}
	return i.StateReason != nil && !strings.Contains(aws.ToString(i.StateReason.Code), "InitiatedShutdown")
}
