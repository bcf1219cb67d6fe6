package state

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`1 {"id":"vol-1","size":8}`, `2 {}`, `0 {}`, `-9 null`, `1 `, `{}`, `1`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var v Volume
		if err := decode(raw, &v); err != nil {
			return
		}
		// What was read is of this version, and reads the same when written.
		data, err := json.Marshal(&v)
		if err != nil {
			t.Fatal(err)
		}
		again := encode(v.Version(), data)
		var w Volume
		if err := decode(again, &w); err != nil {
			t.Fatalf("%s, written again as %s: %v", raw, again, err)
		}
		second, err := json.Marshal(&w)
		if err != nil || string(second) != string(data) {
			t.Fatalf("%s, then %s: %v", data, second, err)
		}
	})
}

// TestFutureFile opens a file whose layout a newer program wrote, and one that
// is no state file at all.
func TestFutureFile(t *testing.T) {
	for _, format := range []string{"2", "x", ""} {
		path := filepath.Join(t.TempDir(), "state.db")
		b, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = b.Update(func(tx *bbolt.Tx) error {
			meta, err := tx.CreateBucket(bucketMeta)
			if err != nil {
				return err
			}
			return meta.Put(keyFormat, []byte(format))
		})
		if err := errors.Join(err, b.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, ErrTooNew) {
			t.Errorf("format %q: %v", format, err)
		}
	}
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if db, err := Open(path); err == nil {
		t.Error("zeroes are a state file", db.Close())
	}
}
