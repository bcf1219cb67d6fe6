package objects

import (
	"errors"
	"io"
	"sync"
)

// readers keeps the files read last open. An object never changes, so an open
// one is as good as the name; a deleted one is forgotten.
type readers struct {
	open func(path string) (File, error)

	mu    sync.Mutex
	files map[string]*reader
	clock int64
}

type reader struct {
	File
	users  int   // reads under way
	used   int64 // when it was last used
	closed bool  // to be closed by its last user
}

func (r *readers) at(path string, p []byte, off int64) (int, error) {
	f, err := r.take(path)
	if err != nil {
		return 0, err
	}
	n, err := f.ReadAt(p, off)
	if cerr := r.release(f); cerr != nil && err == nil {
		err = cerr
	}
	return n, err
}

func (r *readers) take(path string) (*reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	f := r.files[path]
	if f == nil {
		file, err := r.open(path)
		if err != nil {
			return nil, err
		}
		f = &reader{File: file}
		r.files[path] = f
		r.evict()
	}
	f.users++
	f.used = r.clock
	return f, nil
}

// evict closes the file that wasn't used for longest, when there are too many.
func (r *readers) evict() {
	if len(r.files) <= openFiles {
		return
	}
	oldest := ""
	for path, f := range r.files {
		if f.users == 0 && f.used > 0 && (oldest == "" || f.used < r.files[oldest].used) {
			oldest = path
		}
	}
	if f := r.files[oldest]; f != nil {
		delete(r.files, oldest)
		_ = f.Close() // only read
	}
}

func (r *readers) release(f *reader) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.users--
	if f.closed && f.users == 0 {
		return f.Close()
	}
	return nil
}

func (r *readers) forget(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.files[path]; f != nil {
		delete(r.files, path)
		f.closed = true
		if f.users == 0 {
			_ = f.Close() // only read
		}
	}
}

func (r *readers) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for path, f := range r.files {
		delete(r.files, path)
		f.closed = true
		if f.users == 0 {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
