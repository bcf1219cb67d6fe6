package volume

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

func lock(t *testing.T, d *Dir, id string) func() {
	t.Helper()
	release, err := d.Lock(id)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

func reader(t *testing.T, d *Dir, id string) *Reader {
	t.Helper()
	r, err := d.Reader(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestLockExcludes(t *testing.T) {
	d := open(t, t.TempDir())
	create(t, d, "vol-1", 4096)
	create(t, d, "vol-2", 4096)

	release := lock(t, d, "vol-1")
	_, err := d.Lock("vol-1")
	wantErr(t, err, ErrInUse)
	_, err = d.Reader("vol-1")
	wantErr(t, err, ErrInUse)
	wantErr(t, d.Delete(t.Context(), "vol-1"), ErrInUse)
	wantErr(t, d.Grow(t.Context(), "vol-1", 8192), ErrInUse)
	lock(t, d, "vol-2")()
	release()
	release() // twice is harmless, also to the next holder
	second := lock(t, d, "vol-1")
	release()
	_, err = d.Lock("vol-1")
	wantErr(t, err, ErrInUse)
	second()

	a, b := reader(t, d, "vol-1"), reader(t, d, "vol-1")
	_, err = d.Lock("vol-1")
	wantErr(t, err, ErrInUse)
	wantErr(t, d.Delete(t.Context(), "vol-1"), ErrInUse)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, d.Delete(t.Context(), "vol-1"), ErrInUse)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(t.Context(), "vol-1"); err != nil {
		t.Fatal(err)
	}
	_, err = d.Lock("vol-1")
	wantErr(t, err, ErrNotFound)
	_, err = d.Reader("vol-1")
	wantErr(t, err, ErrNotFound)
}

// An opened file stops being the volume when that is deleted, also when
// another takes its name.
func TestDeletedFileIsNotTheVolume(t *testing.T) {
	d := open(t, t.TempDir())
	create(t, d, "vol-1", 4096)
	f, err := d.open("vol-1", os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := d.current("vol-1", f); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(t.Context(), "vol-1"); err != nil {
		t.Fatal(err)
	}
	if err := d.current("vol-1", f); !errors.Is(typed(err), ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
	create(t, d, "vol-1", 4096)
	wantErr(t, d.current("vol-1", f), ErrNotFound)
}

// Whoever gets the lock must have the volume itself, not one that a Delete
// took away in between.
func TestLockRacesDelete(t *testing.T) {
	d := open(t, t.TempDir())
	for range 200 {
		create(t, d, "vol-1", 4096)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _ = d.Delete(t.Context(), "vol-1") })
			wg.Go(func() {
				release, err := d.Lock("vol-1")
				if err != nil {
					return
				}
				defer release()
				if _, err := d.Stat("vol-1"); err != nil {
					t.Errorf("locked, but %v", err)
				}
			})
		}
		wg.Wait()
	}
}

// qemu opens the volume as a machine does and keeps it open until the returned
// function is called. ok is false where QEMU couldn't lock it.
func qemu(t *testing.T, d *Dir, id string, args ...string) (quit func(), ok bool) {
	t.Helper()
	path, err := exec.LookPath("qemu-io")
	if err != nil {
		skip(t, "qemu-io isn't installed (package qemu-utils)")
	}
	cmd := exec.CommandContext(t.Context(), path, append(args, "-f", "raw", d.Path(id))...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
		_ = in.Close()
	}()
	// It answers once it has opened the file, and ends if it couldn't.
	if _, err := io.WriteString(stdin, "length\n"); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	lines := bufio.NewScanner(out)
	for !ok && lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		ok = strings.Contains(lines.Text(), "4 KiB")
	}
	if !ok && !strings.Contains(said.String(), "lock") {
		t.Fatalf("qemu-io failed for another reason: %s", &said)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	quit = sync.OnceFunc(func() {
		_ = stdin.Close()
		<-done
	})
	t.Cleanup(quit)
	return quit, ok
}

func TestLocksAgreeWithQEMU(t *testing.T) {
	d := open(t, t.TempDir())
	create(t, d, "vol-1", 4096)

	quit, ok := qemu(t, d, "vol-1")
	if !ok {
		t.Fatal("QEMU can't open a free volume")
	}
	_, err := d.Lock("vol-1")
	wantErr(t, err, ErrInUse)
	_, err = d.Reader("vol-1")
	wantErr(t, err, ErrInUse)
	wantErr(t, d.Delete(t.Context(), "vol-1"), ErrInUse)
	wantErr(t, d.Grow(t.Context(), "vol-1", 8192), ErrInUse)
	quit()

	release := lock(t, d, "vol-1")
	for _, args := range [][]string{nil, {"-r"}} {
		if _, ok := qemu(t, d, "vol-1", args...); ok {
			t.Errorf("QEMU %q opened a locked volume", args)
		}
	}
	release()

	r := reader(t, d, "vol-1")
	if _, ok := qemu(t, d, "vol-1"); ok {
		t.Error("QEMU opened a volume for writing under a Reader")
	}
	quit, ok = qemu(t, d, "vol-1", "-r")
	if !ok {
		t.Error("QEMU can't read a volume beside a Reader")
	}
	second := reader(t, d, "vol-1")
	quit()
	for _, r := range []*Reader{r, second} {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := qemu(t, d, "vol-1"); !ok {
		t.Error("QEMU can't open a volume that was let go")
	}
}
