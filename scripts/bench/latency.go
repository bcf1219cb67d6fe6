package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const aboutLatency = "A tiny guest that writes 4 KiB blocks here and there in 256 MiB of a 1 GiB data disk full of random bytes " +
	"and syncs each one, without a pause: with O_DIRECT, one request in flight, how long write and sync take together. " +
	"Idle is the same guest between two snapshots, turn by turn; each snapshot lasts from the call to `completed`. The first reads the " +
	"whole disk, the others what was written since. Nearly each write has a block to be kept for the snapshot. " +
	"Without KVM the guest, QEMU and the reader of the snapshot share the processors."

const (
	pulseBlocks = 1 << 16         // of 4 KiB, that are written over and over
	idleTurn    = 5 * time.Second // between two snapshots
	calmDown    = time.Second     // after a snapshot, measured by neither side
)

// pulsePackage is the program that writes in the guest.
const pulsePackage = "github.com/steadcloud/stead/internal/e2e/pulse"

// turn is what the guest measured of one phase; milliseconds.
type turn struct {
	Phase string
	Count int
	Both  struct{ P50, P99, P999, Max float64 }
}

// latency measures what a guest's writes wait while it is being snapshotted.
func latency(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.newScratch("auto")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end(ctx)) }()
	d, err := s.prepareWriter(ctx, b)
	if err != nil {
		return nil, err
	}
	p, err := d.startPulse(ctx)
	if err != nil {
		return nil, err
	}
	rounds := b.repeats(7)
	for n := range rounds {
		took, err := d.round(ctx, p, n)
		if err != nil {
			return nil, errors.Join(err, p.end())
		}
		b.say("round %d of %d: the snapshot took %.1f s", n+1, rounds, took.Seconds())
	}
	turns, err := p.finish()
	if err != nil {
		return nil, err
	}
	return latencyRows(turns, rounds, b)
}

func latencyRows(turns map[string]turn, rounds int, b *bench) ([]row, error) {
	p50 := row{what: "write + sync, p50", unit: milliseconds, against: "idle"}
	p99 := row{what: "write + sync, p99", unit: milliseconds, against: "idle", target: ratioAtMost(2)}
	p999 := row{what: "write + sync, p99.9", unit: milliseconds, against: "idle", target: ratioAtMost(2)}
	longest := row{what: "write + sync, the longest", unit: milliseconds, against: "idle"}
	for n := range rounds {
		busy, calm := turns[phaseName("snapshot", n)], turns[phaseName("idle", n)]
		if busy.Count == 0 || calm.Count == 0 {
			return nil, fmt.Errorf("round %d: %d writes while idle, %d during the snapshot", n+1, calm.Count, busy.Count)
		}
		b.say("round %d: %d writes idle, %d during the snapshot", n+1, calm.Count, busy.Count)
		for r, of := range map[*row]func(turn) float64{
			&p50: func(t turn) float64 { return t.Both.P50 }, &p99: func(t turn) float64 { return t.Both.P99 },
			&p999: func(t turn) float64 { return t.Both.P999 }, &longest: func(t turn) float64 { return t.Both.Max },
		} {
			r.ours, r.theirs = append(r.ours, of(busy)), append(r.theirs, of(calm))
		}
	}
	return []row{p50, p99, p999, longest}, nil
}

func phaseName(kind string, round int) string { return fmt.Sprintf("%s %d", kind, round) }

// writerGuest is a server that runs, with a data disk to write to.
type writerGuest struct {
	s      *scratch
	client *ec2.Client
	name   string
	volume string
}

// prepareWriter makes a server with the writing program in it, and plugs in a
// disk full of random bytes.
func (s *scratch) prepareWriter(ctx context.Context, b *bench) (*writerGuest, error) {
	d := &guestDisk{s: s, name: "writer", dir: b.dir}
	if _, _, err := s.run(ctx, "create", d.name, "-q"); err != nil {
		return nil, err
	}
	if err := d.addData(ctx); err != nil { // stops it
		return nil, err
	}
	if _, _, err := s.run(ctx, "start", d.name, "-q"); err != nil {
		return nil, err
	}
	program := filepath.Join(b.dir, "pulse")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, pulsePackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the writing program: %w: %s", err, out)
	}
	code, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	if _, _, err := s.feed(ctx, bytes.NewReader(code), "exec", d.name, "--", "cat >/tmp/pulse && chmod 755 /tmp/pulse"); err != nil {
		return nil, err
	}
	client, _, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	return &writerGuest{s: s, client: client, name: d.name, volume: volumeOf(d.data)}, nil
}

// volumeOf is the ID of the volume that a file is.
func volumeOf(file string) string {
	name := filepath.Base(file)
	return name[:len(name)-len(filepath.Ext(name))]
}

// round lets the guest write in peace, and while a snapshot is taken.
func (d *writerGuest) round(ctx context.Context, p *pulseRun, n int) (took time.Duration, err error) {
	if err := p.phase("between"); err != nil {
		return 0, err
	}
	if err := pause(ctx, calmDown); err != nil {
		return 0, err
	}
	if err := p.phase(phaseName("idle", n)); err != nil {
		return 0, err
	}
	if err := pause(ctx, idleTurn); err != nil {
		return 0, err
	}
	if err := p.phase(phaseName("snapshot", n)); err != nil {
		return 0, err
	}
	start := time.Now()
	snap, err := d.client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: &d.volume})
	if err != nil {
		return 0, err
	}
	for {
		out, err := d.client.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*snap.SnapshotId}})
		if err != nil {
			return 0, err
		}
		s := out.Snapshots[0]
		if s.State == types.SnapshotStateCompleted {
			return time.Since(start), p.phase("between")
		}
		if s.State == types.SnapshotStateError {
			return 0, fmt.Errorf("snapshot %s: %s", *snap.SnapshotId, aws.ToString(s.StateMessage))
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil { // asking costs the guest, too
			return 0, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pulseRun is the writing program at work in the guest.
type pulseRun struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

func (d *writerGuest) startPulse(ctx context.Context) (*pulseRun, error) {
	p := &pulseRun{cmd: d.s.command(ctx, "exec", d.name, "--", fmt.Sprintf("/tmp/pulse /dev/vdb %d", pulseBlocks))}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out, p.cmd.Stderr = bufio.NewReader(out), &p.stderr
	return p, p.cmd.Start()
}

// phase begins a phase in the guest.
func (p *pulseRun) phase(name string) error {
	if _, err := fmt.Fprintln(p.in, name); err != nil {
		return errors.Join(err, p.end())
	}
	if _, err := p.out.ReadBytes('\n'); err != nil {
		return errors.Join(fmt.Errorf("the writing guest: %w", err), p.end())
	}
	return nil
}

// finish ends the writing and gives the figures of each phase.
func (p *pulseRun) finish() (map[string]turn, error) {
	if err := p.in.Close(); err != nil {
		return nil, err
	}
	turns := map[string]turn{}
	for lines := json.NewDecoder(p.out); ; {
		var t turn
		if err := lines.Decode(&t); errors.Is(err, io.EOF) {
			return turns, p.end()
		} else if err != nil {
			return nil, errors.Join(err, p.end())
		}
		turns[t.Phase] = t
	}
}

func (p *pulseRun) end() error {
	_ = p.in.Close() // it may be closed already
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("the writing guest: %w: %s", err, bytes.TrimSpace(p.stderr.Bytes()))
	}
	return nil
}
