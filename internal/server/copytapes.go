package server

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/blocks"
)

// blockEndpoint is the Manager's cloud as blocks are copied from and to.
func (m *Manager) blockEndpoint() blocks.Endpoint {
	return blocks.Endpoint{Blocks: m.blocks, EC2: m.ec2, Name: m.place()}
}

// place names the Manager's cloud and region.
func (m *Manager) place() string { return "context " + m.name + ", " + m.region }

// copyTapes copies snapshots to another cloud, each over the newest copy of its
// disk that is there. Those that an earlier try has copied are found by their
// tags; one that was begun is gone on with.
func (m *Manager) copyTapes(ctx context.Context, d *destination, name, step string, tapes []types.Snapshot, tags func(*types.Snapshot) tagMap) error {
	slices.SortFunc(tapes, func(a, b types.Snapshot) int { // the same calls in the same order
		return cmp.Compare(tagOf(a.Tags, tagDevice), tagOf(b.Tags, tagDevice))
	})
	return m.step(step, name, func() error {
		for k := range tapes {
			if err := m.copyTape(ctx, d, name, step, &tapes[k], tags(&tapes[k])); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m *Manager) copyTape(ctx context.Context, d *destination, name, step string, tape *types.Snapshot, tags tagMap) error {
	id := aws.ToString(tape.SnapshotId)
	there, err := d.m.findSnapshots(ctx, filter("tag:"+tagCopyOf, id))
	if err != nil {
		return err
	}
	failed := slices.DeleteFunc(slices.Clone(there), func(s types.Snapshot) bool { return s.State != types.SnapshotStateError })
	if err := d.m.deleteTapes(ctx, failed); err != nil {
		return err
	}
	if slices.ContainsFunc(there, func(s types.Snapshot) bool { return s.State == types.SnapshotStateCompleted }) {
		return nil
	}
	first, err := m.firstOf(ctx, d, name, tape)
	if err != nil {
		return err
	}
	o := blocks.CopyOptions{
		Snapshot: id, Description: "Copy of " + id + " of " + m.place(), Tags: tags.with(tagMap{tagCopyOf: id}),
		Token: clientToken("move", name, []string{id, first.there}), First: first.here, FirstCopy: first.there,
		Options: blocks.Options{Poll: m.pollMax, Log: m.log, Plan: m.plan, Progress: func(p blocks.Progress) {
			e := Event{State: StepWaiting, Step: step, Resource: name}
			e.Detail = fmt.Sprintf("%s %d%%", tagOf(tape.Tags, tagDevice), p.At*100/max(1, p.Size))
			m.notify(e)
		}},
	}
	if m.journals != "" {
		if err := m.makeJournals(); err != nil {
			return err
		}
		o.Journal = filepath.Join(m.journals, "copy-"+digest(m.place(), d.m.place(), id)[:24])
	}
	made, err := blocks.Copy(ctx, m.blockEndpoint(), d.m.blockEndpoint(), o)
	if err != nil {
		return BlocksError(err)
	}
	m.log.InfoContext(ctx, "copied", "snapshot", id, "copy", made.Snapshot, "parent", made.Parent, "moved", made.Progress.Moved, "reused", made.Progress.Reused)
	return nil
}

// makeJournals makes the folder for the notes of copies; a plan makes nothing.
func (m *Manager) makeJournals() error {
	if m.plan {
		return nil
	}
	if err := os.MkdirAll(m.journals, 0o700); err != nil {
		return wrap("make", "folder "+m.journals, err)
	}
	return nil
}

// tapePair is a snapshot here and its copy elsewhere.
type tapePair struct{ here, there string }

// firstOf finds the newest earlier snapshot of a disk whose copy is complete at
// the destination. None: all is copied.
func (m *Manager) firstOf(ctx context.Context, d *destination, name string, tape *types.Snapshot) (tapePair, error) {
	there, err := d.m.findSnapshots(ctx, filter("tag:"+tagStep, movingStep(name)))
	if err != nil {
		return tapePair{}, err
	}
	copies := map[string]string{}
	for _, s := range there {
		if s.State == types.SnapshotStateCompleted {
			copies[tagOf(s.Tags, tagCopyOf)] = aws.ToString(s.SnapshotId)
		}
	}
	mine, err := m.findSnapshots(ctx, filter("volume-id", aws.ToString(tape.VolumeId)))
	var first *types.Snapshot
	for k := range mine {
		s := &mine[k]
		if copies[aws.ToString(s.SnapshotId)] == "" || aws.ToString(s.SnapshotId) == aws.ToString(tape.SnapshotId) {
			continue
		}
		if s.State == types.SnapshotStateCompleted && !aws.ToTime(s.StartTime).After(aws.ToTime(tape.StartTime)) &&
			(first == nil || aws.ToTime(s.StartTime).After(aws.ToTime(first.StartTime))) {
			first = s
		}
	}
	if first == nil || err != nil {
		return tapePair{}, err
	}
	return tapePair{aws.ToString(first.SnapshotId), copies[aws.ToString(first.SnapshotId)]}, nil
}
