// Package state keeps the local cloud's records: one versioned JSON document
// a resource, in one bbolt file, changed only in transactions that are on the
// disk before they are answered.
//
// A record's key is account/region/kind/ID, so that one file serves many
// accounts and regions and a listing reads one contiguous range:
//
//	123456789012/us-east-1/volume/vol-0123456789abcdef0 → 1 {…}
//
// The number before the document is the version of its shape.
//
// Records are this package's own types, never an SDK's: their shape changes
// only with their version, and a reader upgrades what an older version wrote.
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrNotFound says that no record has the key.
var ErrNotFound = errors.New("no such record")

// ErrInUse says that another process has the file open.
var ErrInUse = errors.New("the state file is in use by another process")

// ErrTooNew says that a newer version of the program wrote the file.
var ErrTooNew = errors.New("the state file was written by a newer version")

// format is the version of the file's layout: buckets and keys. Each record
// carries the version of its own shape besides.
const format = 1

var (
	bucketMeta    = []byte("meta")
	bucketRecords = []byte("records")
	keyFormat     = []byte("format")
)

// Scope is whose records and where: every key begins with it.
type Scope struct {
	Account string // twelve digits
	Region  string // for example us-east-1
}

func (s Scope) String() string { return s.Account + "/" + s.Region }

// Record is a stored resource. Its methods are called on pointers; Kind and
// Version must not depend on the value.
type Record interface {
	// Kind names the type in keys; it never changes.
	Kind() string
	// Version is the shape that this program writes, from 1.
	Version() int
	// Identity gives the scope and the ID that make the key.
	Identity() (Scope, string)
}

// upgrader is a Record that can read shapes older than its Version: it turns
// a document of version from into one of version from+1.
type upgrader interface {
	Upgrade(from int, old json.RawMessage) (json.RawMessage, error)
}

// DB is an open state file. It is safe for concurrent use.
type DB struct{ bolt *bbolt.DB }

// Open opens or creates the file at path, readable by its owner alone. Where
// another process holds it for longer than a second the error is ErrInUse.
func Open(path string) (*DB, error) {
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: %w", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", path, err)
	}
	if err := errors.Join(b.Update(prepare), syncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(fmt.Errorf("open state %s: %w", path, err), b.Close())
	}
	return &DB{bolt: b}, nil
}

// syncDir makes a new file's name durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func prepare(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(bucketRecords); err != nil {
		return err
	}
	if raw := meta.Get(keyFormat); raw != nil {
		if v, err := strconv.Atoi(string(raw)); err != nil || v > format {
			return fmt.Errorf("format %q: %w", raw, ErrTooNew)
		}
		return nil
	}
	return meta.Put(keyFormat, []byte(strconv.Itoa(format)))
}

// Close waits for transactions under way and closes the file.
func (db *DB) Close() error { return db.bolt.Close() }

// Update runs f in a read-write transaction. When it returns nil the changes
// are on the disk; when f fails nothing has changed. Transactions run one at
// a time.
func (db *DB) Update(f func(*Tx) error) error {
	return db.bolt.Update(func(tx *bbolt.Tx) error { return f(newTx(tx)) })
}

// View runs f on a consistent, read-only picture.
func (db *DB) View(f func(*Tx) error) error {
	return db.bolt.View(func(tx *bbolt.Tx) error { return f(newTx(tx)) })
}

// Tx is a transaction; it is of no use after the function it was given to.
type Tx struct{ records *bbolt.Bucket }

func newTx(tx *bbolt.Tx) *Tx { return &Tx{records: tx.Bucket(bucketRecords)} }

func key(s Scope, kind, id string) []byte {
	return []byte(s.Account + "/" + s.Region + "/" + kind + "/" + id)
}

// ptr ties a record type T to its pointer, which carries the methods.
type ptr[T any] interface {
	*T
	Record
}

// Get reads the record with the ID, or gives ErrNotFound.
func Get[T any, P ptr[T]](tx *Tx, s Scope, id string) (*T, error) {
	rec := new(T)
	kind := P(rec).Kind()
	raw := tx.records.Get(key(s, kind, id))
	if raw == nil {
		return nil, fmt.Errorf("%s %s: %w", kind, id, ErrNotFound)
	}
	if err := decode(raw, P(rec)); err != nil {
		return nil, fmt.Errorf("read %s %s: %w", kind, id, err)
	}
	return rec, nil
}

// List reads every record of the type in the scope, ordered by ID.
func List[T any, P ptr[T]](tx *Tx, s Scope) ([]*T, error) {
	return scan[T, P](tx, key(s, P(new(T)).Kind(), ""))
}

// All reads every record of the type in every scope, ordered by key.
func All[T any, P ptr[T]](tx *Tx) ([]*T, error) {
	var out []*T
	err := eachScope(tx, func(s Scope) error {
		part, err := List[T, P](tx, s)
		out = append(out, part...)
		return err
	})
	return out, err
}

// Count tells how many records of the type there are in all scopes, without
// reading them.
func Count[T any, P ptr[T]](tx *Tx) (n int, err error) {
	kind := P(new(T)).Kind()
	err = eachScope(tx, func(s Scope) error {
		prefix := key(s, kind, "")
		c := tx.records.Cursor()
		for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			n++
		}
		return nil
	})
	return n, err
}

// eachScope calls f with every scope that has a record.
func eachScope(tx *Tx, f func(Scope) error) error {
	c := tx.records.Cursor()
	for k, _ := c.First(); k != nil; {
		parts := strings.SplitN(string(k), "/", 4)
		if len(parts) != 4 {
			return fmt.Errorf("state: malformed key %q", k)
		}
		scope := Scope{parts[0], parts[1]}
		if err := f(scope); err != nil {
			return err
		}
		// '0' follows '/', so this is the first key past the scope.
		k, _ = c.Seek([]byte(scope.String() + "0"))
	}
	return nil
}

// ListAfter reads records of the type in the scope, ordered by ID, that come
// after an ID; limit of them, or all when it is 0. Those that a hint rules out
// are left out. more says that there are others.
func ListAfter[T any, P ptr[T]](tx *Tx, s Scope, after string, limit int, hints ...Hint) (recs []*T, more bool, err error) {
	kind := P(new(T)).Kind()
	prefix, begin := key(s, kind, ""), key(s, kind, after)
	c := tx.records.Cursor()
	for k, v := c.Seek(begin); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if after != "" && bytes.Equal(k, begin) {
			continue
		}
		rec := new(T)
		if !passes(v, P(rec), hints) {
			continue
		}
		if limit > 0 && len(recs) == limit {
			return recs, true, nil
		}
		if err := decode(v, P(rec)); err != nil {
			return nil, false, fmt.Errorf("read %s: %w", k, err)
		}
		recs = append(recs, rec)
	}
	return recs, false, nil
}

func scan[T any, P ptr[T]](tx *Tx, prefix []byte) ([]*T, error) {
	var out []*T
	c := tx.records.Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		rec := new(T)
		if err := decode(v, P(rec)); err != nil {
			return nil, fmt.Errorf("read %s: %w", k, err)
		}
		out = append(out, rec)
	}
	return out, nil
}

// Put writes the record, replacing the one with its key.
func Put(tx *Tx, rec Record) error {
	s, id := rec.Identity()
	if s.Account == "" || s.Region == "" || id == "" || strings.Contains(s.String()[len(s.Account)+1:]+s.Account, "/") {
		return fmt.Errorf("write %s %q: incomplete key %s", rec.Kind(), id, s)
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("write %s %s: %w", rec.Kind(), id, err)
	}
	if err := tx.records.Put(key(s, rec.Kind(), id), encode(rec.Version(), data)); err != nil {
		return fmt.Errorf("write %s %s: %w", rec.Kind(), id, err)
	}
	return nil
}

// Delete removes the record; one that is not there is no error.
func Delete(tx *Tx, rec Record) error {
	s, id := rec.Identity()
	if err := tx.records.Delete(key(s, rec.Kind(), id)); err != nil {
		return fmt.Errorf("delete %s %s: %w", rec.Kind(), id, err)
	}
	return nil
}

func encode(version int, data []byte) []byte {
	return append(append(strconv.AppendInt(nil, int64(version), 10), ' '), data...)
}

// decode reads a record of any version that is known.
func decode(raw []byte, rec Record) error {
	data, err := document(raw, rec)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, rec)
}

// document gives a stored record's JSON in the shape of rec's Version.
func document(raw []byte, rec Record) (json.RawMessage, error) {
	head, data, ok := bytes.Cut(raw, []byte{' '})
	version, err := strconv.Atoi(string(head))
	if !ok || err != nil || version < 1 {
		return nil, fmt.Errorf("no version before the record: %.20q", raw)
	}
	if version > rec.Version() {
		return nil, fmt.Errorf("version %d: %w", version, ErrTooNew)
	}
	for ; version < rec.Version(); version++ {
		u, ok := rec.(upgrader)
		if !ok {
			return nil, fmt.Errorf("version %d: no upgrade to %d", version, version+1)
		}
		if data, err = u.Upgrade(version, data); err != nil {
			return nil, fmt.Errorf("upgrade from version %d: %w", version, err)
		}
	}
	return data, nil
}
