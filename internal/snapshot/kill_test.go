package snapshot_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
)

const childEnv = "STEAD_SNAPSHOT_TEST_CHILD"

func TestMain(m *testing.M) {
	if raw := os.Getenv(childEnv); raw != "" {
		if err := child(raw); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func keysOf(m map[string]int) iter.Seq[string] { return maps.Keys(m) }

// killOrder is what a child is told: where, and where to go on.
type killOrder struct {
	Path  string
	Seed  uint64
	Next  int
	Again *killStep // that was cut off
	World killWorld
}

// child takes one step after the other until it is killed, and prints each as it
// begins and when it is done.
func child(raw string) error {
	var o killOrder
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		return err
	}
	ctx := context.Background()
	var at atomic.Int64
	e, err := openKill(ctx, o.Path, func() time.Time { return killStep{N: int(at.Load())}.now() })
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for ; ; o.Next++ {
		step := o.World.choose(o.Seed, o.Next)
		if o.Again != nil {
			step, o.Again = *o.Again, nil
			o.Next = step.N
		}
		line, err := json.Marshal(step)
		if err != nil {
			return err
		}
		at.Store(int64(step.N))
		fmt.Println("begin " + string(line))
		if err := step.take(ctx, e); err != nil {
			return err
		}
		o.World.apply(step)
		fmt.Println("done")
	}
}

// soakRounds is how often a test kills: few times, or as STEAD_SOAK says.
func soakRounds(few int) int {
	if n, err := strconv.Atoi(os.Getenv("STEAD_SOAK")); err == nil {
		return n
	}
	return few
}

// soakSeed is a new one, or STEAD_SEED's.
func soakSeed(t *testing.T) uint64 {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("STEAD_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64N(1e9)
	}
	t.Logf("STEAD_SEED=%d repeats the order of the steps", seed)
	return seed
}

// TestKill kills a process that makes, copies, deletes, brings back, collects,
// checks, repairs and restores snapshots, again and again at random moments. Then
// there is what had been done, and nothing else; each snapshot restores byte for
// byte; and what was cut off can be done again. STEAD_SOAK sets how often.
func TestKill(t *testing.T) {
	rounds := soakRounds(10)
	k := &killer{t: t, order: killOrder{Path: snapshot.Scratch(t), Seed: soakSeed(t), World: killWorld{Trash: map[string]int{}}}, bound: 60 * time.Millisecond}
	for round := range rounds {
		k.kill()
		k.look(2)
		if round%25 == 24 || round == rounds-1 {
			k.look(len(k.order.World.Live))
			k.end()
		}
		if t.Failed() {
			t.Fatalf("in round %d, at %v, with %+v", round, k.order.Again, k.order.World)
		}
	}
	t.Logf("%d steps in %d rounds; %d were cut off, after %v", k.order.Next, rounds, k.cut, k.by)
	if k.order.Next < rounds/4 || k.cut < rounds/4 {
		t.Error("the kills don't hit the work: the test has lost its teeth")
	}
}

// killer knows what the processes did that it killed.
type killer struct {
	t     *testing.T
	order killOrder
	bound time.Duration // the longest that a process lives
	cut   int
	by    map[string]int // what was cut off
}

// kill runs a child for a random while and notes what it did.
func (k *killer) kill() {
	k.t.Helper()
	raw, err := json.Marshal(k.order)
	if err != nil {
		k.t.Fatal(err)
	}
	cmd := exec.CommandContext(k.t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	end := func() { _ = cmd.Process.Kill() }
	if rand.IntN(10) == 0 { // maybe before it has opened the store
		time.AfterFunc(rand.N(k.bound), end)
	}
	before := k.order.Next
	// Some while after the start falls into what takes long; just after a step
	// has begun, into any.
	steps := rand.IntN(16) - 4
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		what, step, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "ready":
			if steps <= 0 {
				time.AfterFunc(rand.N(k.bound), end)
			}
		case "begin":
			if steps--; steps == 0 {
				time.AfterFunc(rand.N(2*time.Millisecond), end)
			}
			k.order.Again = new(killStep)
			if err := json.Unmarshal([]byte(step), k.order.Again); err != nil {
				k.t.Fatal(err)
			}
		case "done":
			k.order.World.apply(*k.order.Again)
			k.order.Next, k.order.Again = k.order.Again.N+1, nil
		}
	}
	if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
		k.t.Fatalf("child ended by itself: %v\n%s", err, &stderr)
	}
	if k.order.Again != nil {
		if k.by == nil {
			k.by = map[string]int{}
		}
		k.cut++
		k.by[k.order.Again.Op]++
	}
	// As long as some steps take, however slow the machine is.
	if k.order.Next == before {
		k.bound *= 2
	} else {
		k.bound = max(k.bound*3/4, 60*time.Millisecond)
	}
}

// look wants in the store what the steps left, and some of it byte for byte.
func (k *killer) look(sample int) {
	k.t.Helper()
	e := k.open(k.order.Path)
	k.documented(k.order.Path)
	list, err := e.List(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	there := map[string]bool{}
	for _, info := range list {
		there[info.ID] = true
	}
	trash, err := e.Deleted(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	deleted := map[string]bool{}
	for _, d := range trash {
		deleted[d.ID] = true
	}
	k.same("snapshots", there, slices.Values(k.order.World.Live))
	k.same("trash", deleted, keysOf(k.order.World.Trash))
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, info := range list[:min(sample, len(list))] {
		if err := killRestored(k.t.Context(), e, info.ID); err != nil {
			k.t.Error(err)
		}
	}
	if err := e.Close(); err != nil {
		k.t.Fatal(err)
	}
}

func (k *killer) open(path string) *snapshot.Engine {
	k.t.Helper()
	e, err := openKill(k.t.Context(), path, killStep{N: k.order.Next}.now)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = e.Close() })
	return e
}

// same compares, but for what a step that was cut off may have done or not.
func (k *killer) same(what string, got map[string]bool, want iter.Seq[string]) {
	k.t.Helper()
	open := map[string]bool{}
	if s := k.order.Again; s != nil {
		open[s.ID] = true
		if s.Op == "empty" || strings.Contains(s.Op, "collect") {
			for id := range k.order.World.Trash {
				open[id] = s.Op == "empty" || s.now().Sub(killStep{N: k.order.World.Trash[id]}.now()) >= killTrash
			}
		}
	}
	wanted := map[string]bool{}
	for id := range want {
		wanted[id] = true
		if !got[id] && !open[id] {
			k.t.Errorf("%s: %s is lost", what, id)
		}
	}
	for id := range got {
		if !wanted[id] && !open[id] {
			k.t.Errorf("%s: nobody made %s", what, id)
		}
	}
}

// documented wants no file but those that docs/snapshot-format.md tells of.
func (k *killer) documented(path string) {
	k.t.Helper()
	for _, file := range files(k.t, path) {
		name, err := filepath.Rel(path, file)
		if err != nil {
			k.t.Fatal(err)
		}
		kind, _, _ := strings.Cut(name, "/")
		if !slices.Contains([]string{"config", "lock", "snapshots", "packs", "index", "trash", "deleted"}, kind) {
			k.t.Errorf("%s is left", name) // also a note of rot
		}
	}
}

// end settles what was cut off, and takes a copy of the store to its end: all is
// whole, what was deleted comes back, and when nothing is kept no space is taken.
func (k *killer) end() {
	k.t.Helper()
	e := k.open(k.order.Path)
	wantClean(k.t, e)
	if s := k.order.Again; s != nil {
		if err := s.take(k.t.Context(), e); err != nil {
			k.t.Fatal(err)
		}
		k.order.World.apply(*s)
		k.order.Next, k.order.Again = s.N+1, nil
	}
	if err := e.Close(); err != nil {
		k.t.Fatal(err)
	}
	path := linked(k.t, k.order.Path)
	defer func() { _ = os.RemoveAll(path) }()
	e = k.open(path)
	for id := range k.order.World.Trash {
		if _, err := e.Undelete(k.t.Context(), id); err != nil {
			k.t.Error(err)
		}
	}
	list, err := e.List(k.t.Context())
	if err != nil || len(list) != len(k.order.World.Live)+len(k.order.World.Trash) {
		k.t.Errorf("%d snapshots (%v), want %+v", len(list), err, k.order.World)
	}
	for _, info := range list {
		if err := killRestored(k.t.Context(), e, info.ID); err != nil {
			k.t.Error(err)
		}
	}
	collect(k.t, e)
	if st, err := e.Stats(k.t.Context()); err != nil || st.Bytes > st.LiveBytes*110/100+20_000 {
		k.t.Errorf("%d bytes are taken for %d live (%v)", st.Bytes, st.LiveBytes, err)
	}
	for _, info := range list {
		if err := e.Delete(k.t.Context(), info.ID); err != nil {
			k.t.Error(err)
		}
	}
	collect(k.t, e)
	if _, err := e.EmptyTrash(k.t.Context()); err != nil {
		k.t.Error(err)
	}
	for _, kind := range []string{"packs", "snapshots", "trash", "deleted"} {
		if left := files(k.t, filepath.Join(path, kind)); len(left) > 0 {
			k.t.Errorf("without a snapshot %d files are in %s", len(left), kind)
		}
	}
	if err := e.Close(); err != nil {
		k.t.Error(err)
	}
}

// linked copies a store by second names of its objects, which never change.
func linked(t *testing.T, path string) string {
	t.Helper()
	to := path + "-copy"
	err := filepath.WalkDir(path, func(from string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(from, path))
		switch {
		case d.IsDir():
			return os.Mkdir(target, 0o700)
		case d.Name() == "lock":
			return nil
		}
		return os.Link(from, target)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}
