package snapshot_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/snapshot"
)

const childEnv = "STEAD_SNAPSHOT_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		if err := child(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// killVolume is what the child snapshots under the seed's ID.
func killVolume(seed uint64) memory {
	rng := rand.New(rand.NewPCG(seed/3, 0)) // three in a row share most
	m := make(memory, 4<<20)
	for at := 0; at < 3<<20; at += 4096 { // each page differs, and packs well
		copy(m[at:], bytes.Repeat(binary.LittleEndian.AppendUint64(nil, rng.Uint64()), 512))
	}
	copy(m, strconv.FormatUint(seed, 10))
	return m
}

// child makes, deletes and collects snapshots until it is killed, and prints
// what is done once it is.
func child(path string) error {
	ctx := context.Background()
	e, err := snapshot.OpenDir(ctx, path, slog.New(slog.DiscardHandler), snapshot.WithPackSize(256<<10), snapshot.WithTrash(-1))
	if err != nil {
		return err
	}
	have, err := e.List(ctx)
	if err != nil {
		return err
	}
	seed := uint64(1)
	for _, info := range have {
		n, err := strconv.ParseUint(strings.TrimPrefix(info.ID, "snap-"), 10, 64)
		if err != nil {
			return err
		}
		seed = max(seed, n+1)
	}
	fmt.Println("ready")
	for ; ; seed++ {
		if _, err := e.Create(ctx, fmt.Sprintf("snap-%d", seed), killVolume(seed), nil, nil); err != nil {
			return err
		}
		fmt.Println("made", seed)
		if seed > 3 {
			fmt.Println("deleting", seed-3)
			if err := e.Delete(ctx, fmt.Sprintf("snap-%d", seed-3)); err != nil {
				return err
			}
		}
		if seed%2 == 0 {
			if _, err := e.Collect(ctx); err != nil {
				return err
			}
		}
	}
}

// TestKill kills a process that works on a store, again and again, and wants
// every snapshot that it had finished, and the store whole. STEAD_KILLS sets
// how often.
func TestKill(t *testing.T) {
	kills := 8
	if n, err := strconv.Atoi(os.Getenv("STEAD_KILLS")); err == nil {
		kills = n
	}
	path := snapshot.Scratch(t)
	made := make(map[uint64]bool)
	for range kills {
		killOnce(t, path, made)

		store := openStore(t, path)
		if left := files(t, filepath.Join(path, "tmp")); len(left) != 0 {
			t.Fatalf("%d temporary files are left", len(left))
		}
		wantClean(t, store)
		for seed := range made {
			wantRestored(t, store, fmt.Sprintf("snap-%d", seed), killVolume(seed))
		}
		list, err := store.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range list { // also what was finished but not yet said
			seed, err := strconv.ParseUint(strings.TrimPrefix(info.ID, "snap-"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			wantRestored(t, store, info.ID, killVolume(seed))
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(made) == 0 {
		t.Error("no child got as far as one snapshot")
	}
}

// killOnce runs a child for a random while and notes what it did.
func killOnce(t *testing.T, path string, made map[uint64]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// At a random moment of the work on some snapshot, however fast that is.
	first, after := time.Now(), 1+rand.IntN(4)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		what, arg, _ := strings.Cut(lines.Text(), " ")
		seed, _ := strconv.ParseUint(arg, 10, 64)
		switch what {
		case "ready":
			first = time.Now()
		case "made":
			made[seed] = true
		case "deleting":
			delete(made, seed)
			continue
		}
		if after--; after == 0 {
			cycle := max(time.Since(first), 20*time.Millisecond)
			time.AfterFunc(rand.N(cycle), func() { _ = cmd.Process.Kill() })
		}
	}
	if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
		t.Fatalf("child ended by itself: %v\n%s", err, &stderr)
	}
}

// TestFullDisk fills a small filesystem while a snapshot is made.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		skip(t, "can't mount a small tmpfs to fill: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	path := filepath.Join(dir, "store")
	store := openStore(t, path)
	t.Cleanup(func() { _ = store.Close() })
	small := memory(noise(3 << 20))
	snap(t, store, "small", small)

	_, err := store.Create(t.Context(), "large", memory(noise(16<<20)), nil, nil)
	if !errors.Is(err, snapshot.ErrNoSpace) {
		t.Fatalf("error %v, want ErrNoSpace", err)
	}
	if left := files(t, filepath.Join(path, "tmp")); len(left) != 0 {
		t.Errorf("%d temporary files still take the space", len(left))
	}
	wantRestored(t, store, "small", small)
	if report := wantClean(t, store); report.Snapshots != 1 {
		t.Errorf("%d snapshots, want 1", report.Snapshots)
	}
	collect(t, store)
	fits := slices.Concat(noise(3 << 20)[:2<<20], bytesOf(7, 1<<20))
	snap(t, store, "fits", memory(fits))
	wantRestored(t, store, "fits", fits)
}

func noise(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func bytesOf(v byte, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = v
	}
	return b
}

// skip says why, and is a failure where nothing may be skipped.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("STEAD_STRICT") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
