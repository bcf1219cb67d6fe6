package server_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

// tapeGuest is a helper that finds the path on the data disk.
func tapeGuest() *fakeGuest {
	return &fakeGuest{answer: func(_ *server.Server, script string) (string, error) {
		if strings.Contains(script, "\nall='1'") || strings.HasPrefix(script, "all='1'") {
			return "root\t/mnt/tape\n", nil
		}
		return "more\tUUID=1 /data\n", nil
	}}
}

func TestTapeKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.guarded(b.client, tapeGuest())
	before, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	set, err := m.Snapshot(t.Context(), "web", server.SnapshotOptions{Wait: true})
	if err != nil { // an endpoint that takes no two disks at once takes quiet ones
		_, err = m.Stop(t.Context(), "web", false)
		b.check(err)
		set, err = m.Snapshot(t.Context(), "web", server.SnapshotOptions{Wait: true})
		b.check(err)
		_, err = m.Start(t.Context(), "web", server.WaitSSH)
		b.check(err)
	}
	o := server.TapeOptions{Set: set.ID, Path: "/data/file", HelperOptions: server.HelperOptions{Key: []byte(publicKey)}}
	read := func(ctx context.Context, _ int) error {
		tape, err := m.OpenTape(ctx, "web", o)
		if err != nil {
			return err
		}
		if tape.Set != set.ID || tape.Root != "/mnt/tape" || !strings.HasPrefix(tape.Helper.Name, "web.helper.i-") {
			t.Errorf("tape is %+v", tape)
		}
		return m.CloseTape(ctx, "web")
	}
	check := func(int) {
		b.whole(m, 2)
		b.noHelpers()
		if s, err := m.Get(t.Context(), "web"); err != nil || disks(s)[0] != disks(before)[0] {
			t.Errorf("disks are %v, %v", disks(s), err)
		}
	}
	if b.isMoto() { // where this takes a minute
		b.check(read(t.Context(), 0))
		check(0)
	} else {
		everyStep(t, k, func(int) {}, read, check)
	}
	if _, err := m.OpenTape(t.Context(), "web", server.TapeOptions{Set: "none", Path: "/x"}); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("no such set: %v", err)
	}
	b.noHelpers()
}
