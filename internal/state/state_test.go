package state_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

var (
	home  = state.Scope{Account: "123456789012", Region: "us-east-1"}
	other = state.Scope{Account: "123456789012", Region: "us-west-2"}
)

func open(t testing.TB) *state.DB {
	t.Helper()
	db, err := state.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func put(t testing.TB, db *state.DB, recs ...state.Record) {
	t.Helper()
	err := db.Update(func(tx *state.Tx) error {
		for _, rec := range recs {
			if err := state.Put(tx, rec); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func volume(s state.Scope, id string) *state.Volume {
	return &state.Volume{Meta: state.Meta{Account: s.Account, Region: s.Region, ID: id}, Size: 1}
}

func ids(vols []*state.Volume) string {
	var list []string
	for _, v := range vols {
		list = append(list, v.Region+"/"+v.ID)
	}
	return strings.Join(list, " ")
}

func view(t *testing.T, db *state.DB, f func(*state.Tx) error) {
	t.Helper()
	if err := db.View(f); err != nil {
		t.Fatal(err)
	}
}

func TestScopesAreIsolated(t *testing.T) {
	db := open(t)
	put(t, db, volume(home, "vol-2"), volume(other, "vol-1"), volume(home, "vol-1"),
		&state.Snapshot{Meta: state.Meta{Account: home.Account, Region: home.Region, ID: "vol-9"}})
	view(t, db, func(tx *state.Tx) error {
		vols, err := state.List[state.Volume](tx, home)
		if err != nil {
			return err
		}
		if got := ids(vols); got != "us-east-1/vol-1 us-east-1/vol-2" {
			t.Errorf("home lists %q", got)
		}
		if _, err := state.Get[state.Volume](tx, other, "vol-2"); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("another scope's record: %v", err)
		}
		if _, err := state.Get[state.Volume](tx, home, "vol-9"); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("another kind's record: %v", err)
		}
		return nil
	})
}

// TestAllScopes has scopes of which one's key begins another's, where a scan
// that looked at prefixes alone would read a record twice or miss one.
func TestAllScopes(t *testing.T) {
	db := open(t)
	scopes := []state.Scope{
		{Account: "1", Region: "us"},
		{Account: "1", Region: "us-east"},
		{Account: "1", Region: "us-east-1"},
		{Account: "1", Region: "us.x"},
		{Account: "1", Region: "us0"},
		{Account: "12", Region: "us"},
		{Account: "2", Region: "us-east-1"},
	}
	want := map[string]int{}
	for _, s := range scopes {
		put(t, db, volume(s, "vol-1"), volume(s, "vol-2"), &state.Subnet{Meta: state.Meta{Account: s.Account, Region: s.Region, ID: "subnet-1"}})
		want[s.String()] = 2
	}
	// A scope with other kinds only must not end the scan.
	put(t, db, &state.VPC{Meta: state.Meta{Account: "1", Region: "ap", ID: "vpc-1"}})
	view(t, db, func(tx *state.Tx) error {
		vols, err := state.All[state.Volume](tx)
		if err != nil {
			return err
		}
		got := map[string]int{}
		for _, v := range vols {
			got[v.Scope().String()]++
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("all scopes give %v, want %v", got, want)
		}
		n, err := state.Count[state.Volume](tx)
		if n != 2*len(scopes) {
			t.Errorf("%d volumes counted, want %d", n, 2*len(scopes))
		}
		return err
	})
}

func TestPutRefusesIncompleteKeys(t *testing.T) {
	db := open(t)
	for name, v := range map[string]*state.Volume{
		"no account":    volume(state.Scope{Region: "r"}, "vol-1"),
		"no region":     volume(state.Scope{Account: "1"}, "vol-1"),
		"no ID":         volume(home, ""),
		"slash account": volume(state.Scope{Account: "1/2", Region: "r"}, "vol-1"),
		"slash region":  volume(state.Scope{Account: "1", Region: "r/s"}, "vol-1"),
	} {
		if err := db.Update(func(tx *state.Tx) error { return state.Put(tx, v) }); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestFailedUpdateChangesNothing(t *testing.T) {
	db := open(t)
	put(t, db, volume(home, "vol-1"))
	cause := errors.New("no")
	err := db.Update(func(tx *state.Tx) error {
		if err := errors.Join(state.Put(tx, volume(home, "vol-2")), state.Delete(tx, volume(home, "vol-1"))); err != nil {
			return err
		}
		return cause
	})
	if !errors.Is(err, cause) {
		t.Fatalf("error is %v", err)
	}
	view(t, db, func(tx *state.Tx) error {
		vols, err := state.List[state.Volume](tx, home)
		if got := ids(vols); got != "us-east-1/vol-1" {
			t.Errorf("afterwards there is %q", got)
		}
		return err
	})
}

func TestDelete(t *testing.T) {
	db := open(t)
	put(t, db, volume(home, "vol-1"))
	for range 2 { // the second time it is absent
		if err := db.Update(func(tx *state.Tx) error { return state.Delete(tx, volume(home, "vol-1")) }); err != nil {
			t.Fatal(err)
		}
	}
	view(t, db, func(tx *state.Tx) error {
		if _, err := state.Get[state.Volume](tx, home, "vol-1"); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("a deleted record: %v", err)
		}
		return nil
	})
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	rec := volume(home, "vol-1")
	rec.Created, rec.Tags = time.Unix(1700000000, 5).UTC(), map[string]string{"Name": "web"}
	put(t, db, rec)
	if _, err := state.Open(path); !errors.Is(err, state.ErrInUse) {
		t.Errorf("a second opening: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = state.Open(path); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	view(t, db, func(tx *state.Tx) error {
		got, err := state.Get[state.Volume](tx, home, "vol-1")
		if err != nil {
			return err
		}
		if !got.Created.Equal(rec.Created) || got.Tags["Name"] != "web" || got.Size != 1 {
			t.Errorf("read back %+v", got)
		}
		return nil
	})
}

// thing1 and thing3 are one kind of record as the first and the third version
// of the program know it.
type thing1 struct {
	state.Meta
	Gigs int `json:"gigs"`
}

func (*thing1) Kind() string { return "thing" }
func (*thing1) Version() int { return 1 }

type thing3 struct {
	state.Meta
	Bytes int64 `json:"bytes"`
}

func (*thing3) Kind() string { return "thing" }
func (*thing3) Version() int { return 3 }

// Upgrade counts in mebibytes from version 2 on and in bytes from version 3.
func (*thing3) Upgrade(from int, old json.RawMessage) (json.RawMessage, error) {
	doc := map[string]json.RawMessage{}
	if err := json.Unmarshal(old, &doc); err != nil {
		return nil, err
	}
	name, next, factor := "gigs", "mebs", int64(1024)
	if from == 2 {
		name, next, factor = "mebs", "bytes", 1<<20
	}
	var n int64
	if err := json.Unmarshal(doc[name], &n); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	doc[next] = json.RawMessage(fmt.Sprint(n * factor))
	delete(doc, name)
	return json.Marshal(doc)
}

// stuck is of a version that forgot to upgrade.
type stuck struct{ thing1 }

func (*stuck) Version() int { return 2 }

func TestUpgrade(t *testing.T) {
	db := open(t)
	meta := state.Meta{Account: home.Account, Region: home.Region, ID: "thing-1", Tags: map[string]string{"a": "b"}}
	put(t, db, &thing1{meta, 3})
	view(t, db, func(tx *state.Tx) error {
		got, err := state.Get[thing3](tx, home, "thing-1")
		if err != nil {
			return err
		}
		if got.Bytes != 3<<30 || got.Tags["a"] != "b" {
			t.Errorf("upgraded to %+v", got)
		}
		if _, err := state.Get[stuck](tx, home, "thing-1"); err == nil {
			t.Error("a version without its upgrade reads the old shape as its own")
		}
		return nil
	})
	put(t, db, &thing3{meta, 7})
	view(t, db, func(tx *state.Tx) error {
		if _, err := state.Get[thing1](tx, home, "thing-1"); !errors.Is(err, state.ErrTooNew) {
			t.Errorf("an older program reads a newer record: %v", err)
		}
		if _, err := state.List[thing1](tx, home); !errors.Is(err, state.ErrTooNew) {
			t.Errorf("an older program lists a newer record: %v", err)
		}
		return nil
	})
}

func BenchmarkList100000(b *testing.B) {
	db := open(b)
	const total, batch = 100_000, 10_000
	for i := 0; i < total; i += batch {
		recs := make([]state.Record, batch)
		for j := range recs {
			v := volume(home, fmt.Sprintf("vol-%017x", i+j))
			v.Zone, v.Type, v.State, v.Tags = "us-east-1a", "gp3", state.VolumeAvailable, map[string]string{"Name": "web"}
			recs[j] = v
		}
		put(b, db, recs...)
	}
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			err := db.View(func(tx *state.Tx) error {
				vols, err := state.List[state.Volume](tx, home)
				if len(vols) != total {
					b.Fatalf("lists %d", len(vols))
				}
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("other kind", func(b *testing.B) {
		for b.Loop() {
			err := db.View(func(tx *state.Tx) error {
				_, err := state.List[state.KeyPair](tx, home)
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
