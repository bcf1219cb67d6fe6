package server

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// firstSetPrefix begins the IDs of the sets that a move to another cloud takes
// while the server runs.
const firstSetPrefix = "first"

// moveContext brings a server to another cloud, or, with Release, deletes what
// it has left behind here.
//
//	check that it can run there
//	→ while it runs: snapshots of all disks → copies of them there
//	→ stop → snapshots again → copies of what differs, over the first ones
//	→ launch from the copies → an address there
//
// So it stands still for as long as the last difference and a boot take. What
// it leaves here is as after a move to another region: stopped, and marked.
// Each step finds what an earlier try has made by its tags, on both sides.
func (m *Manager) moveContext(ctx context.Context, w *world, o MoveOptions) (*MoveResult, error) {
	d := &destination{m: o.There, from: "context " + m.name, noun: "context " + o.To, flag: "--to " + o.To}
	if m.blocks == nil || d.m.blocks == nil {
		return nil, &Error{Code: KindUnsupported, Reason: "the EBS direct APIs are needed on both sides", Remedy: "copy the files: stead cp " + w.name + ":/path . here, and back with --context " + o.To}
	}
	away, err := d.m.ashore(ctx, w.name)
	if err != nil {
		return nil, err
	}
	if o.Release {
		return m.releaseHere(ctx, d, w, away)
	}
	zone, err := m.checkThere(ctx, d, w, away, o)
	if err != nil {
		return nil, err
	}
	if d.kernels, err = m.matchKernels(ctx, d, machineFacts(w.facts(), RescueOptions{Type: o.Type})); err != nil {
		return nil, err
	}
	d.copy = func(ctx context.Context, name, set string) error { return m.copyOver(ctx, d, name, set) }
	done := away.instance != nil && !hasTag(away.instance.Tags, tagStep)
	if !done && isUp(w.instance) {
		if err := m.firstPass(ctx, d, w); err != nil {
			return nil, err
		}
		if w, err = m.observe(ctx, w.name); err != nil { // it may have run for hours meanwhile
			return nil, err
		}
	}
	stopped := m.now()
	ran := isUp(w.instance)
	r, err := m.moveTo(ctx, d, w, away, zone, o)
	if err != nil {
		return nil, err
	}
	if !done {
		if !ran {
			stopped, err = m.atRestSince(ctx, w.name, r.Set, stopped)
		}
		r.Downtime = m.now().Sub(stopped).Round(100 * time.Millisecond).Seconds()
	}
	if err == nil {
		err = m.leaveBehind(ctx, d, w.name, o.To)
	}
	return r, err
}

// atRestSince is when a server was at rest that an earlier try has stopped: its
// last set is from then.
func (m *Manager) atRestSince(ctx context.Context, name, set string, now time.Time) (time.Time, error) {
	tapes, err := m.setSnapshots(ctx, name, set)
	for _, s := range tapes {
		if at := aws.ToTime(s.StartTime); !at.IsZero() && at.Before(now) {
			now = at
		}
	}
	return now, err
}

// matchKernels finds what a paravirtual server boots by at its destination,
// where the same kernel has another ID: it is known by its name.
func (m *Manager) matchKernels(ctx context.Context, d *destination, f facts) (map[string]string, error) {
	match := map[string]string{}
	for _, id := range []string{f.Kernel, f.Ramdisk} {
		if id == "" {
			continue
		}
		none := &Error{
			Code: KindUnsupported, Reason: "it boots by " + id + ", which " + d.noun + " doesn't have",
			Remedy: "make it boot by its own boot loader (hvm) first, or copy its files to a new server there by stead cp",
		}
		own, err := m.imageByID(ctx, id)
		if err != nil {
			if kind := KindOf(err); kind != KindNotFound && kind != KindUsage {
				return nil, err
			}
			return nil, none
		}
		name := aws.ToString(own.Name)
		none.Reason = "it boots by " + id + " (" + name + "), which " + d.noun + " doesn't have"
		if strings.HasPrefix(name, "stead-kernel-") {
			none.Remedy = "stead image build tiny, where the cloud of " + d.noun + " runs"
		}
		out, err := d.m.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{Filters: []types.Filter{filter("name", name)}})
		if err != nil {
			return nil, wrap("look for", "kernel "+name+" in "+d.noun, err)
		}
		at := slices.IndexFunc(out.Images, func(i types.Image) bool {
			return i.ImageType == own.ImageType && i.Architecture == own.Architecture && aws.ToString(i.Name) == name && i.State != types.ImageStateDeregistered
		})
		if at < 0 {
			return nil, none
		}
		match[id] = aws.ToString(out.Images[at].ImageId)
	}
	return match, nil
}

// firstPass copies a server's disks while it runs. An endpoint that can't take
// them as they run has all copied later.
func (m *Manager) firstPass(ctx context.Context, d *destination, w *world) error {
	p := &setPlan{server: w.name, id: w.lastSetID(firstSetPrefix), note: "first pass of a move", volumes: w.volumes, loose: true}
	err := m.step("take first snapshots", w.name, func() error { return m.takeSet(ctx, w, p) })
	if err == nil {
		err = m.finishSet(ctx, p)
	}
	if err == nil {
		_, err = m.waitSet(ctx, w.name, p.id)
	}
	if ctx.Err() != nil || KindOf(err) == KindAuth {
		return err
	}
	if err != nil {
		m.warn("take first snapshots", w.name, "its disks can't be taken as it runs, so all is copied while it is stopped: "+causeText(err))
		return nil
	}
	tapes, err := m.setSnapshots(ctx, w.name, p.id)
	if err != nil {
		return err
	}
	return m.copyTapes(ctx, d, w.name, "copy disks to "+d.noun, tapes, func(tape *types.Snapshot) tagMap {
		return tagMap{
			tagSchema: schemaVersion, tagName: w.name + " moving", tagStep: movingStep(w.name), tagDevice: tagOf(tape.Tags, tagDevice),
		}
	})
}

// movingStep marks the copies of a first pass. They are no set: nothing comes
// back from them.
func movingStep(name string) string { return "move " + name }

// copyOver copies a set to another cloud: what differs from the first pass.
func (m *Manager) copyOver(ctx context.Context, d *destination, name, set string) error {
	tapes, err := m.setSnapshots(ctx, name, set)
	if err != nil {
		return err
	}
	return m.copyTapes(ctx, d, name, "copy last changes to "+d.noun, tapes, func(tape *types.Snapshot) tagMap {
		t := abroad(tape.Tags)
		delete(t, tagProfile) // of another account, or of none
		for _, key := range []string{tagKernel, tagRamdisk} {
			if there := d.kernels[t[key]]; there != "" {
				t[key] = there
			}
		}
		return t
	})
}

// leaveBehind marks what stays here, and deletes what was made on the way.
func (m *Manager) leaveBehind(ctx context.Context, d *destination, name, to string) error {
	w, err := m.observe(ctx, name)
	if err != nil {
		return err
	}
	for k := range w.volumes {
		v := &w.volumes[k]
		if err := m.tag(ctx, aws.ToString(v.VolumeId), tagsOf(v.Tags).missing(tagMap{tagMovedTo: to})); err != nil {
			return err
		}
	}
	there, err := d.m.findSnapshots(ctx, filter("tag:"+tagStep, movingStep(name)))
	if err != nil {
		return err
	}
	if err := d.m.deleteTapes(ctx, there); err != nil {
		return err
	}
	mine, err := m.tapes(ctx, name)
	if err != nil {
		return err
	}
	return m.deleteTapes(ctx, slices.DeleteFunc(mine, func(s types.Snapshot) bool {
		return !strings.HasPrefix(tagOf(s.Tags, tagSet), firstSetPrefix+"-")
	}))
}

// deleteTapes deletes snapshots, as far as they are there.
func (m *Manager) deleteTapes(ctx context.Context, tapes []types.Snapshot) error {
	for _, s := range tapes {
		_, err := m.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: s.SnapshotId})
		if err != nil && KindOf(err) != KindNotFound {
			return wrap("delete", "snapshot "+aws.ToString(s.SnapshotId), err)
		}
	}
	return nil
}

// movedTo is the context that a server has gone to, "" for none.
func (w *world) movedTo() string {
	to := ""
	for k := range w.volumes {
		to = cmp.Or(to, tagOf(w.volumes[k].Tags, tagMovedTo))
	}
	return to
}

// unmarkMoved takes back the mark of a move: the server is to run here again.
func (m *Manager) unmarkMoved(ctx context.Context, w *world) error {
	for k := range w.volumes {
		if v := &w.volumes[k]; hasTag(v.Tags, tagMovedTo) {
			if err := m.untag(ctx, aws.ToString(v.VolumeId), tagMovedTo); err != nil {
				return err
			}
		}
	}
	return nil
}
