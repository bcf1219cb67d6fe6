package blocks

import (
	"errors"
	"io/fs"
)

// What a transfer may fail of, for errors.Is.
var (
	ErrUsage   = errors.New("the request makes no sense")
	ErrExists  = errors.New("it exists already")
	ErrState   = errors.New("its state forbids it")
	ErrFormat  = errors.New("the format isn't understood")
	ErrCorrupt = errors.New("the data isn't what it must be")
	ErrChanged = errors.New("the source changed")
)

// Error is a failure that a person can act on.
type Error struct {
	Op       string // "export", "import", "copy"
	Resource string // "snapshot snap-0123", "disk.raw"
	Reason   string // what is the matter
	Remedy   string // what mends it, or ""
	Err      error  // one of the above, or another cause
}

// Error says what failed, on what and why.
func (e *Error) Error() string {
	text := e.Op + " " + e.Resource
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	if e.Err != nil && (e.Reason == "" || !named(e.Err)) {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// named tells errors that the reason has said better.
func named(err error) bool {
	for _, known := range []error{ErrUsage, ErrExists, ErrState, ErrFormat, ErrCorrupt, ErrChanged, fs.ErrNotExist} {
		if err == known { //nolint:errorlint // not one that it wraps
			return true
		}
	}
	return false
}

// wrap names operation and resource, unless an error does so already.
func wrap(op, resource string, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{Op: op, Resource: resource, Err: err}
}
