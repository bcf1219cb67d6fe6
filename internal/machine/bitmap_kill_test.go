package machine

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// dyingConn is the control connection of a daemon that dies after some commands:
// the last one reaches QEMU, and nobody hears the answer.
type dyingConn struct {
	net.Conn
	left atomic.Int32
	die  func()
}

func (c *dyingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.left.Add(-1) == 0 {
		c.die()
		// QEMU has taken the command once the other side of the socket is read;
		// shutting down our sending side lets it finish.
		_ = c.Conn.(*net.UnixConn).CloseWrite()
	}
	return n, err
}

func (c *dyingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.left.Load() <= 0 {
		return 0, net.ErrClosed
	}
	return n, err
}

// dieAfter has the test go on as a daemon that dies after some commands; dead
// tells whether it has.
func (r *records) dieAfter(commands int) (dead func() bool) {
	r.t.Helper()
	if err := r.m.Release(); err != nil {
		r.t.Fatal(err)
	}
	p, err := adopt(r.spec.Dir)
	if err != nil {
		r.t.Fatal(err)
	}
	go p.supervise(r.spec.Dir)
	conn, err := net.Dial("unix", filepath.Join(r.spec.Dir, fileQMP))
	if err != nil {
		r.t.Fatal(err)
	}
	c := &dyingConn{Conn: conn, die: func() { p.released.Store(true) }}
	c.left.Store(int32(commands + 1)) // one more for the greeting's answer
	r.m = newMachine(r.spec, AccelTCG, p, testLog(r.t))
	if r.m.qmp, err = qmp.New(r.t.Context(), c, r.m.onEvent); err != nil {
		r.t.Fatal(err)
	}
	go r.m.watch()
	return func() bool { return c.left.Load() <= 0 }
}

// TestRecordsOutliveADaemonThatDiesAnywhere kills a daemon after each of the
// commands that a snapshot, and the end of the volume's stay, give to QEMU. What
// the next one finds must be right, and mustn't be nothing.
func TestRecordsOutliveADaemonThatDiesAnywhere(t *testing.T) {
	r := newRecords(t, 4)
	id := r.disks[0].VolumeID
	complete := func(n int) {
		t.Helper()
		name := fmt.Sprintf("base-%d", n)
		r.mustTake(name, id, true)
		if all := r.bitmaps(id); len(all) != 1 || all[0].Name != recordPrefix+name {
			t.Fatalf("records %v after a snapshot that was complete", all)
		}
	}
	complete(0)
	for n := 1; ; n++ {
		for range 5 {
			r.write()
		}
		over := true
		for _, complete := range []bool{true, false} {
			dead := r.dieAfter(n)
			r.dying = true
			_ = r.take(fmt.Sprintf("cut-%d-%v", n, complete), id, complete)
			r.dying = false
			over = over && !dead()
			r.restart()
		}
		for range 5 {
			r.write()
		}
		known := r.bitmaps(id)
		if len(known) != 1 {
			t.Fatalf("after %d commands: records %v are left", n, known)
		}
		if since, ok := parseSince(known[0].Name); !ok || r.store[since.Snapshot] == nil || !known[0].Recording {
			t.Fatalf("after %d commands: record %+v is left", n, known[0])
		}
		partly := r.partly
		complete(n)
		if r.partly == partly {
			t.Errorf("after %d commands the next snapshot read the volume whole", n)
		}
		if over {
			t.Logf("a snapshot takes %d commands", n)
			break
		}
	}
}

func (r *records) mustTake(name, id string, whole bool) {
	r.t.Helper()
	if err := r.take(name, id, whole); err != nil {
		r.t.Fatal(err)
	}
}

// take takes one volume; complete says whether it ends well.
func (r *records) take(name, id string, complete bool) error {
	want := slices.Clone(r.now[id])
	inst, err := r.m.Snapshot(r.t.Context(), name, []Freeze{{VolumeID: id, Snapshot: name, Record: true}})
	if err != nil {
		return err
	}
	got, err := r.read(inst, id)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		r.t.Fatalf("%s is not what the volume held", name)
	}
	if complete {
		r.store[name] = map[string][]byte{id: got}
		inst.Completed(id)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), bootTime)
	defer cancel()
	return inst.Close(ctx)
}
