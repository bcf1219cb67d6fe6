package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// trial is one command that is struck at one of its calls and then repeated.
type trial struct {
	gate   *gate
	at     int    // which call, or
	action string // the first of this name
	when   moment
	delay  time.Duration
	sigint bool // the blow is Ctrl-C, not the daemon's end
	args   []string
}

// outage is how long a command has to see that the daemon is gone.
const outage = 3 * time.Second

func (t trial) String() string {
	blow := "the daemon killed"
	if t.sigint {
		blow = "Ctrl-C"
	}
	return fmt.Sprintf("stead %s, %s %s call %d%s", strings.Join(t.args, " "), blow, t.when, t.at, t.action)
}

// run strikes the command and repeats it. It tells whether there was a call
// to strike at.
func (t trial) run() bool {
	g := t.gate
	g.rig.t.Helper()
	var started *os.Process
	ready := make(chan struct{})
	blow := func() {
		g.rig.killDaemon()
		// A command that waits for something sits an outage out. This one doesn't
		// end: the command dies with the daemon.
		time.AfterFunc(outage, func() { <-ready; _ = started.Kill() })
	}
	if t.sigint {
		blow = func() { <-ready; _ = started.Signal(os.Interrupt) } // it may have ended
	}
	a := g.set(t.at, t.action, t.when, t.delay, blow)
	res := g.run(a, t.args, func(p *os.Process) { started = p; close(ready) })
	g.mu.Lock()
	struck, actions := g.fallen, slices.Clone(g.actions)
	g.mu.Unlock()
	if !struck {
		if res.code != 0 {
			g.rig.t.Fatalf("%v: undisturbed: %v", t, res)
		}
		g.rig.t.Logf("stead %s: %d changing calls: %v", strings.Join(t.args, " "), len(actions), actions)
		return false
	}
	last := actions[len(actions)-1]
	switch {
	case t.sigint && res.code != 0 && res.code != 130:
		g.rig.t.Fatalf("%v (%s): %v", t, last, res)
	case !t.sigint && res.code == 0:
		g.rig.t.Fatalf("%v (%s): no failure: %v", t, last, res)
	case res.code != 0 && !strings.Contains(res.stderr, "to go on: stead "+strings.Join(t.args, " ")) && t.sigint:
		g.rig.t.Fatalf("%v (%s): does not say how to go on: %v", t, last, res)
	}
	if res.code == 0 {
		return true // it was done already
	}
	a = g.set(0, "", 0, 0, nil)
	// After its very last call the first run was complete.
	if again := g.run(a, t.args, nil); again.code != 0 && again.code != 5 {
		g.rig.t.Fatalf("%v (%s), then repeated: %v\nthe first run: %v", t, last, again, res)
	}
	return true
}

// strikes are the ways in which each command is struck at each of its calls.
var strikes = []struct {
	name   string
	when   moment
	sigint bool
}{
	{"the daemon dies at work", duringCall, false},
	{"the daemon dies before it answers", afterCall, false},
	{"Ctrl-C", atAnswer, true},
}

// bareServers is a cloud without machines and the commands that are struck
// there: the API, the records and the files are what is tried.
type bareServers struct {
	*rig
	image string
	want  counts
}

func newBareServers(t *testing.T) *bareServers {
	t.Helper()
	r := newBareRig(t)
	return &bareServers{rig: r, image: r.blankImage(), want: counts{snapshots: 1, images: 1}}
}

func (b *bareServers) create(name string) []string {
	return []string{"create", name, "--image", b.image, "--data", "1", "--wait", "running"}
}

func (b *bareServers) created(name string) {
	b.t.Helper()
	b.want.instances, b.want.volumes = b.want.instances+1, b.want.volumes+2
	b.want.addresses, b.want.groups = b.want.addresses+1, b.want.groups+1
	b.check(b.want)
	b.whole(name)
}

func (b *bareServers) terminated() {
	b.t.Helper()
	off := b.want
	off.instances--
	b.check(off)
}

// swapped checks that the very same disks are back.
func (b *bareServers) swapped(name string, was status) {
	b.t.Helper()
	b.check(b.want)
	if is := b.whole(name); is.Root != was.Root || !slices.Equal(is.Data, was.Data) {
		b.t.Fatalf("after a swap the disks are %+v, were %+v", is, was)
	}
}

// copied checks that new disks are there, and the old ones still.
func (b *bareServers) copied(name string) {
	b.t.Helper()
	b.want.volumes, b.want.snapshots, b.want.images = b.want.volumes+2, b.want.snapshots+2, b.want.images+1
	b.check(b.want)
	b.whole(name)
}

// TestMachineKillEverywhere kills the daemon, and interrupts the command, at
// every call of create, terminate and rescue that changes something. The same
// command again completes it, and nothing is lost or left over.
func TestMachineKillEverywhere(t *testing.T) {
	for _, s := range strikes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			b := newBareServers(t)
			g := newGate(b.rig)
			random := rand.New(rand.NewPCG(1, 2)) // the same blows each time
			strike := func(at int, args ...string) bool {
				delay := time.Duration(random.Int64N(int64(4 * time.Millisecond)))
				return trial{gate: g, at: at, when: s.when, sigint: s.sigint, args: args, delay: delay}.run()
			}
			for at, struck := 1, true; struck; at++ {
				name := fmt.Sprintf("c%d", at)
				struck = strike(at, b.create(name)...)
				b.created(name)
			}
			was := b.whole("c1")
			for at, struck := 1, true; struck; at++ {
				struck = strike(at, "terminate", "c1", "--yes")
				b.terminated()
				struck = strike(at, "rescue", "c1", "--by", "swap", "--wait", "running") || struck
				b.swapped("c1", was)
			}
			for at, struck := 1, true; struck; at++ {
				b.stead("terminate", "c1", "--yes")
				struck = strike(at, "rescue", "c1", "--by", "snapshot", "--wait", "running")
				b.copied("c1")
			}
		})
	}
}

// TestMachineKillAnytime kills the daemon at any time of the same commands,
// also while only its workers are busy, and while it starts.
func TestMachineKillAnytime(t *testing.T) {
	t.Parallel()
	b := newBareServers(t)
	random := rand.New(rand.NewPCG(3, 4)) // the same blows each time
	killed := 0
	strike := func(args ...string) {
		t.Helper()
		limit := 300 * time.Millisecond
		for again := 0; ; again++ {
			delay := time.Duration(random.Int64N(int64(limit)))
			res := b.struckAfter(delay, args...)
			if res.code == 0 || again > 0 && res.code == 5 {
				return // done, this time or before the blow
			}
			killed++
			limit *= 2 // to come through at last
		}
	}
	strike(b.create("web")...)
	b.created("web")
	was := b.whole("web")
	for range 4 {
		strike("terminate", "web", "--yes")
		b.terminated()
		strike("rescue", "web", "--by", "swap", "--wait", "running")
		b.swapped("web", was)
		b.stead("terminate", "web", "--yes")
		strike("rescue", "web", "--by", "snapshot", "--wait", "running")
		b.copied("web")
		was = b.whole("web")
	}
	if killed == 0 {
		t.Error("no blow fell in time")
	}
	t.Logf("%d runs failed for it", killed)
}

// struckAfter runs stead and kills the daemon some time after its start, if
// one runs then.
func (r *rig) struckAfter(delay time.Duration, args ...string) result {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	struck := make(chan struct{})
	res := r.finish(r.command(ctx, nil, "stead", args...), func(*os.Process) {
		go func() {
			defer close(struck)
			time.Sleep(delay)
			for _, p := range r.processes("cloud") {
				p.kill()
			}
		}()
	})
	<-struck
	return res
}
