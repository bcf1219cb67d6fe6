package volume

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	childEnv  = "STEAD_VOLUME_TEST_CHILD"
	childSize = 2 << 20
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		run := child
		if os.Getenv(childChangesEnv) != "" {
			run = childOfChanges
		} else if os.Getenv(childGoldenEnv) != "" {
			run = childOfGoldens
		}
		fmt.Fprintln(os.Stderr, run(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child fills volumes until it is killed.
func child(path string) error {
	d, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	ids, err := d.List()
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for n := len(ids); ; n++ {
		id := fmt.Sprintf("vol-%04d", n)
		if err := d.Fill(context.Background(), id, childSize, fillAll); err != nil {
			return err
		}
		fmt.Println(id)
		if n > 6 {
			if err := d.Delete(context.Background(), fmt.Sprintf("vol-%04d", n-6)); err != nil {
				return err
			}
			if err := d.Create(context.Background(), fmt.Sprintf("vol-%04d", n-6), 4096); err != nil {
				return err
			}
		}
	}
}

func fillAll(_ context.Context, w Sink) error {
	chunk := bytes.Repeat([]byte("full"), 16<<10)
	for off := int64(0); off < childSize; off += int64(len(chunk)) {
		if _, err := w.WriteAt(chunk, off); err != nil {
			return err
		}
	}
	return nil
}

// TestKill kills a process that fills volumes, again and again: each volume is
// complete or absent, and no temporary outlives the next Open. STEAD_KILLS sets
// how often.
func TestKill(t *testing.T) {
	kills := 10
	if n, err := strconv.Atoi(os.Getenv("STEAD_KILLS")); err == nil {
		kills = n
	}
	path := fastDir(t)
	made := make(map[string]bool)
	for range kills {
		killOnce(t, path, func(line string) { made[line] = true })
		d := open(t, path)
		ids, err := d.List()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, id := range ids {
			names = append(names, id+suffix)
			raw, err := os.ReadFile(d.Path(id))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(raw, []byte("full")); len(raw) == childSize && n != childSize/4 {
				t.Fatalf("volume %s is filled to %d of %d", id, n*4, childSize)
			} else if len(raw) != childSize && len(raw) != 4096 {
				t.Fatalf("volume %s has %d bytes", id, len(raw))
			}
			delete(made, id)
		}
		wantFiles(t, path, names...)
		if len(made) > 1 { // one may have been deleted and not yet made again
			t.Fatalf("finished volumes are gone: %v", made)
		}
	}
}

// fastDir is a folder for many syncs, in memory if possible.
func fastDir(t *testing.T) string {
	t.Helper()
	path, err := os.MkdirTemp("/dev/shm", "stead-volume-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(path) })
	return path
}

// killOnce runs a child for a random while and hands on what it says.
func killOnce(t *testing.T, path string, said func(line string), env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), childEnv+"="+path), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if lines.Text() != "ready" {
			said(lines.Text())
			continue
		}
		// The moment is random, not a wait for something.
		time.AfterFunc(rand.N(100*time.Millisecond), func() { _ = cmd.Process.Kill() })
	}
	if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
		t.Fatalf("child ended by itself: %v\n%s", err, &stderr)
	}
}
