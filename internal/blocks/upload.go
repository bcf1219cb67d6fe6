package blocks

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// pendingMinutes is for how long an endpoint is to wait for the next block
// before it gives a snapshot up: a transfer that was cut off in the evening is
// gone on with in the morning.
const pendingMinutes = 24 * 60

// target says what snapshot is to be made.
type target struct {
	about       string // what the transfer is from and to
	token       string // "" makes one
	sizeGiB     int64
	parent      string
	description string
	tags        map[string]string
}

// upload is a snapshot that is being made.
type upload struct {
	to      Endpoint
	gate    *gate
	options Options
	target  target
	journal *journal
	id      string
	over    bool // an earlier try has completed it
	meter   *meter
}

// begin starts the snapshot, or goes on with the one of an earlier try.
func begin(ctx context.Context, to Endpoint, g *gate, o Options, t target, j *journal) (*upload, error) {
	u := &upload{to: to, gate: g, options: o, target: t, journal: j, meter: newMeter(o.Progress, t.sizeGiB*gib)}
	head := j.head
	same := head.About == t.about && head.Token != "" && head.Root == t.token
	if !same && head.Snapshot != "" {
		u.abandon(ctx, head.Snapshot)
	}
	if same && head.Snapshot != "" {
		state, _, err := stateOf(ctx, to, head.Snapshot)
		if err != nil {
			return nil, err
		}
		switch state {
		case ec2types.SnapshotStatePending:
			u.id = head.Snapshot
			return u, j.begin(head, true)
		case ec2types.SnapshotStateCompleted:
			u.id, u.over = head.Snapshot, true
			return u, nil
		default: // gone, or given up: start sees that too, and begins anew
			same = false
		}
	}
	if !same {
		head = journalHead{About: t.about, Token: t.token, Root: t.token}
		if head.Token == "" {
			head.Token = newToken()
		}
	}
	if err := j.begin(head, same); err != nil {
		return nil, err
	}
	err := u.start(ctx)
	return u, err
}

// start asks for the snapshot. Its token makes asking again find it; one that
// was spent on a snapshot that is no more makes the next one.
func (u *upload) start(ctx context.Context) error {
	for range mostTokens {
		id, err := u.ask(ctx)
		if err != nil {
			return err
		}
		head := u.journal.head
		head.Snapshot = id
		if err := u.journal.begin(head, true); err != nil {
			return err
		}
		state, err := u.listed(ctx, id)
		if err != nil {
			return err
		}
		if state == ec2types.SnapshotStatePending || state == ec2types.SnapshotStateCompleted {
			u.id, u.over = id, state == ec2types.SnapshotStateCompleted
			return nil
		}
		if err := u.journal.begin(journalHead{About: head.About, Token: nextToken(head.Token), Root: u.target.token}, false); err != nil {
			return err
		}
	}
	return &Error{Op: "start", Resource: "a snapshot in " + u.to.Name, Reason: "each was given up at once", Err: ErrState}
}

// mostTokens is how many snapshots of one transfer may have been given up.
const mostTokens = 16

// nextToken follows from a token, so that two runs agree on it.
func nextToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return "stead-" + hex.EncodeToString(sum[:16])
}

// listedWithin is how long a snapshot may be unknown after it was started.
const listedWithin = 10 * time.Second

// listed looks at a snapshot that was just started, or long ago.
func (u *upload) listed(ctx context.Context, id string) (ec2types.SnapshotState, error) {
	for began := time.Now(); ; {
		state, _, err := stateOf(ctx, u.to, id)
		if err != nil || state != "" || time.Since(began) > listedWithin {
			return state, err
		}
		if err := pause(ctx, u.options.Poll); err != nil {
			return "", err
		}
	}
}

// ask sends the call, and returns the snapshot's ID.
func (u *upload) ask(ctx context.Context) (string, error) {
	in := &ebs.StartSnapshotInput{VolumeSize: &u.target.sizeGiB, ClientToken: &u.journal.head.Token, Timeout: aws.Int32(pendingMinutes)}
	if u.target.description != "" {
		in.Description = &u.target.description
	}
	if u.target.parent != "" {
		in.ParentSnapshotId = &u.target.parent
	}
	for _, key := range sortedKeys(u.target.tags) {
		in.Tags = append(in.Tags, types.Tag{Key: aws.String(key), Value: aws.String(u.target.tags[key])})
	}
	out, err := u.to.Blocks.StartSnapshot(ctx, in, u.gate.retryer)
	if err != nil {
		return "", startError(err, u.to, u.target)
	}
	if size := aws.ToInt32(out.BlockSize); size != 0 && size != Size {
		return "", fmt.Errorf("%w: blocks of %d bytes", ErrFormat, size)
	}
	return aws.ToString(out.SnapshotId), nil
}

// startError says what can be done where a snapshot is refused.
func startError(err error, to Endpoint, t target) error {
	e := &Error{Op: "start", Resource: "a snapshot in " + to.Name, Err: err}
	switch code := apiCode(err); {
	case code == "ServiceQuotaExceededException" || code == "ConcurrentLimitExceededException":
		e.Reason, e.Remedy = "it allows no more snapshots at once", "complete or delete those that are pending, then the same command again"
	case code == "ResourceNotFoundException" && t.parent != "":
		e.Reason, e.Remedy = "there is no completed snapshot "+t.parent+" to build on", "leave the parent out: all blocks are sent then"
	case code == "ConflictException":
		e.Reason, e.Remedy = "the same transfer was begun otherwise", "delete its pending snapshot, then the same command again"
	}
	return e
}

// had returns the digest of a block that an earlier try has put.
func (u *upload) had(index int32) ([sha256.Size]byte, bool) { return u.journal.done.get(index) }

// put puts a block and notes it.
func (u *upload) put(ctx context.Context, index int32, sum [sha256.Size]byte, data []byte) error {
	percent := int32(min(99, int64(index)*Size*100/max(1, u.target.sizeGiB*gib)))
	if err := put(ctx, u.to, u.gate, u.id, index, sum, data, percent); err != nil {
		return u.lost(err)
	}
	return u.journal.note(index, sum)
}

// lost says of a snapshot that the endpoint has given up, or that somebody has
// deleted, that it begins anew next time.
func (u *upload) lost(err error) error {
	code := apiCode(err)
	if code != "ResourceNotFoundException" && !(code == "ValidationException" && strings.Contains(err.Error(), u.id)) {
		return err
	}
	return &Error{
		Op: "write to", Resource: "snapshot " + u.id + " in " + u.to.Name, Err: err,
		Reason: "it isn't pending any more", Remedy: "the same command again: it begins anew",
	}
}

// complete ends the snapshot, and returns when it is whole.
func (u *upload) complete(ctx context.Context) error {
	if !u.over {
		sum := u.journal.done.linear()
		_, err := u.to.Blocks.CompleteSnapshot(ctx, &ebs.CompleteSnapshotInput{
			SnapshotId: &u.id, ChangedBlocksCount: aws.Int32(u.journal.done.count()),
			Checksum:                  aws.String(base64.StdEncoding.EncodeToString(sum[:])),
			ChecksumAlgorithm:         types.ChecksumAlgorithmChecksumAlgorithmSha256,
			ChecksumAggregationMethod: types.ChecksumAggregationMethodChecksumAggregationLinear,
		}, u.gate.retryer)
		if err != nil { // also where an earlier call of the same came through
			if state, _, look := stateOf(ctx, u.to, u.id); look != nil || state != ec2types.SnapshotStateCompleted {
				return u.incomplete(err)
			}
		}
	}
	if err := u.wait(ctx); err != nil {
		return err
	}
	u.meter.end()
	return u.journal.remove()
}

// foresee plans that all blocks are put and the snapshot is completed; how many
// there will be isn't known.
func (u *upload) foresee(ctx context.Context) error {
	if u.over {
		return nil
	}
	all, none := aws.Int32(-1), aws.String("")
	_, err := u.to.Blocks.PutSnapshotBlock(ctx, &ebs.PutSnapshotBlockInput{
		SnapshotId: &u.id, BlockIndex: all, BlockData: bytes.NewReader(nil), DataLength: aws.Int32(Size),
		Checksum: none, ChecksumAlgorithm: types.ChecksumAlgorithmChecksumAlgorithmSha256,
	}, u.gate.retryer)
	if err != nil {
		return err
	}
	_, err = u.to.Blocks.CompleteSnapshot(ctx, &ebs.CompleteSnapshotInput{SnapshotId: &u.id, ChangedBlocksCount: all}, u.gate.retryer)
	return err
}

// incomplete is the error of a snapshot that the endpoint won't complete. What
// was put can't be asked for, so the next try puts it all.
func (u *upload) incomplete(err error) error {
	if code := apiCode(err); code != "ValidationException" && code != "ConflictException" && code != "ResourceNotFoundException" {
		return err
	}
	return errors.Join(&Error{
		Op: "complete", Resource: "snapshot " + u.id + " in " + u.to.Name, Err: err,
		Reason: "what arrived isn't what was sent", Remedy: "the same command again: it begins anew",
	}, u.journal.remove())
}

// wait looks until the snapshot is whole.
func (u *upload) wait(ctx context.Context) error {
	for {
		state, message, err := stateOf(ctx, u.to, u.id)
		switch {
		case err != nil:
			return err
		case state == ec2types.SnapshotStateCompleted:
			return nil
		case state != ec2types.SnapshotStatePending:
			return errors.Join(&Error{
				Op: "complete", Resource: "snapshot " + u.id + " in " + u.to.Name, Err: ErrState,
				Reason: strings.TrimSuffix("it is "+nonEmpty(string(state), "gone")+": "+message, ": "), Remedy: "the same command again: it begins anew",
			}, u.journal.remove())
		case message != "" && u.journal.path != "": // it may have to wait long; another try finds it
			return &Error{
				Op: "complete", Resource: "snapshot " + u.id + " in " + u.to.Name, Err: ErrState,
				Reason: message, Remedy: "the same command again: it goes on",
			}
		}
		if err := pause(ctx, u.options.Poll); err != nil {
			return err
		}
	}
}

// abandon deletes a snapshot that an earlier try has begun and that nobody will
// complete. If that fails the endpoint gives it up by itself.
func (u *upload) abandon(ctx context.Context, id string) {
	state, _, err := stateOf(ctx, u.to, id)
	if err == nil && state == ec2types.SnapshotStatePending {
		_, err = u.to.EC2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &id})
	}
	u.options.Log.DebugContext(ctx, "an earlier try is given up", "snapshot", id, "state", state, "err", err)
}

// stateOf looks at a snapshot; one that is gone has none.
func stateOf(ctx context.Context, e Endpoint, id string) (state ec2types.SnapshotState, message string, err error) {
	out, err := e.EC2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
	if apiCode(err) == "InvalidSnapshot.NotFound" || err == nil && len(out.Snapshots) == 0 {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("look at snapshot %s: %w", id, err)
	}
	return out.Snapshots[0].State, aws.ToString(out.Snapshots[0].StateMessage), nil
}

func newToken() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	return "stead-" + hex.EncodeToString(b)
}

// meter counts what is done and tells of it, not too often.
type meter struct {
	mu            sync.Mutex // one at a time is told
	tell          func(Progress)
	size          int64
	at            atomic.Int64
	moved, reused atomic.Int64
	told          atomic.Int64 // when, in nanoseconds
}

const tellEvery = 200 * time.Millisecond

func newMeter(tell func(Progress), size int64) *meter { return &meter{tell: tell, size: size} }

func (m *meter) done(index int32, moved bool) {
	if moved {
		m.moved.Add(Size)
	} else {
		m.reused.Add(Size)
	}
	for at := (int64(index) + 1) * Size; ; {
		old := m.at.Load()
		if at <= old || m.at.CompareAndSwap(old, at) {
			break
		}
	}
	now, told := time.Now().UnixNano(), m.told.Load()
	if now-told >= int64(tellEvery) && m.told.CompareAndSwap(told, now) {
		m.say()
	}
}

func (m *meter) say() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell(Progress{At: min(m.at.Load(), m.size), Size: m.size, Moved: m.moved.Load(), Reused: m.reused.Load()})
}

func (m *meter) end() { m.at.Store(m.size); m.say() }
