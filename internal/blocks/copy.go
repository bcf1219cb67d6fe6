package blocks

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// CopyOptions says what is copied.
type CopyOptions struct {
	Snapshot string // in the source
	// First and FirstCopy are an earlier snapshot of the same disk and its copy
	// at the target: then only what differs is copied. Where the endpoint tells
	// no differences of the two, all is.
	First, FirstCopy string
	Description      string
	Tags             map[string]string
	// Token makes two runs of the same copy one: the second goes on with the
	// first's snapshot. Empty: that is known by the journal alone.
	Token string
	// Journal is the path of the notes by which a copy goes on where it was cut
	// off. Empty, or lost, the blocks are all copied again.
	Journal string
	Options
}

// Copied is a copy that is completed.
type Copied struct {
	Snapshot string   // at the target
	Size     int64    // of the volume in bytes
	Parent   string   // the copy that it builds on, "" when all was copied
	Progress Progress // what was moved
	Linear   [sha256.Size]byte
	Blocks   int32 // that were put, of this try and of earlier ones
}

// Copy copies a snapshot to another endpoint. It is checked on the way out, on
// the way in, and at the end as a whole.
func Copy(ctx context.Context, from, to Endpoint, o CopyOptions) (*Copied, error) {
	o.Options = o.filled()
	made, err := copySnapshot(ctx, from, to, o)
	return made, wrap("copy", "snapshot "+o.Snapshot+" of "+from.Name+" to "+to.Name, err)
}

func copySnapshot(ctx context.Context, from, to Endpoint, o CopyOptions) (*Copied, error) {
	g := newGate(o.Parallel)
	size, err := copiedSize(ctx, from, g, &o)
	if err != nil {
		return nil, err
	}
	list, parent, err := difference(ctx, from, g, &o)
	if err != nil {
		return nil, err
	}
	j, err := o.notes(o.Journal)
	if err != nil {
		return nil, err
	}
	defer j.close()
	about, err := json.Marshal([]string{"copy", from.Name, o.Snapshot, o.First, to.Name, parent})
	if err != nil {
		return nil, err
	}
	t := target{about: string(about), token: o.Token, sizeGiB: size, parent: parent, description: o.Description, tags: o.Tags}
	if parent == "" && o.FirstCopy != "" && t.token != "" {
		t.token += "-whole" // not what was begun with a parent
	}
	u, err := begin(ctx, to, g, o.Options, t, j)
	if err != nil {
		return nil, err
	}
	if o.Plan {
		return &Copied{Snapshot: u.id, Size: size * gib, Parent: parent}, u.foresee(ctx)
	}
	if !u.over {
		err = each(ctx, g, o.Parallel, list, func(ctx context.Context, b block, buf []byte) error {
			if _, ok := u.had(b.index); ok { // a snapshot never changes
				u.meter.done(b.index, false)
				return nil
			}
			sum, err := get(ctx, from, g, o.Snapshot, b, buf)
			if err != nil {
				return err
			}
			if err := u.put(ctx, b.index, sum, buf); err != nil {
				return err
			}
			u.meter.done(b.index, true)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	made := &Copied{Snapshot: u.id, Size: size * gib, Parent: parent, Linear: j.done.linear(), Blocks: j.done.count()}
	if err := u.complete(ctx); err != nil {
		return nil, err
	}
	made.Progress = Progress{At: made.Size, Size: made.Size, Moved: u.meter.moved.Load(), Reused: u.meter.reused.Load()}
	return made, nil
}

// copiedSize is the size of the snapshot that is copied, in GiB. In a plan it may
// not be there yet, and then only EC2 foresees it.
func copiedSize(ctx context.Context, from Endpoint, g *gate, o *CopyOptions) (int64, error) {
	if !o.Plan {
		return sizeOf(ctx, from, g, o.Snapshot)
	}
	out, err := from.EC2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{o.Snapshot}})
	if err != nil {
		return 0, err
	}
	if len(out.Snapshots) == 0 {
		return 0, fmt.Errorf("snapshot %s: %w", o.Snapshot, fs.ErrNotExist)
	}
	return int64(aws.ToInt32(out.Snapshots[0].VolumeSize)), nil
}

// difference chooses what is copied: what changed since the first snapshot, or
// all where none is known, or where the two have no common origin.
func difference(ctx context.Context, from Endpoint, g *gate, o *CopyOptions) (lister, string, error) {
	if o.First == "" || o.FirstCopy == "" {
		return allOf(from, g, o.Snapshot), "", nil
	}
	if o.Plan {
		return nil, o.FirstCopy, nil
	}
	changed := changedSince(from, g, o.First, o.Snapshot)
	err := changed(ctx, func(block) bool { return false }) // whether it is told at all
	var refused *types.ValidationException
	if errors.As(err, &refused) && refused.Reason == types.ValidationExceptionReasonUnrelatedSnapshots || apiCode(err) == "ResourceNotFoundException" {
		o.Log.InfoContext(ctx, "no differences are told, so all is copied", "snapshot", o.Snapshot, "first", o.First, "err", err)
		return allOf(from, g, o.Snapshot), "", nil
	}
	return changed, o.FirstCopy, err
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func nonEmpty(s, fallback string) string { return cmp.Or(s, fallback) }
