package image

import (
	"context"
	"errors"
	"log/slog"
)

// TinyOptions says where and how large the tiny image is built.
type TinyOptions struct {
	// Dir is the output folder. It is made when absent; the files in it are
	// replaced atomically.
	Dir string
	// SizeBytes is the size of the root disk, a multiple of 1 MiB and at
	// least 32 MiB. Zero means DefaultTinySize. The file is sparse.
	SizeBytes int64
	// Cache keeps what is downloaded (a kernel package, when none is
	// installed) from one build to the next. Empty means a folder in Dir.
	Cache string
	// Log receives what the build does. Nil discards it.
	Log *slog.Logger
	// Progress, when set, is called as each step begins and ends.
	Progress func(Progress)
}

// DefaultTinySize is the size of the tiny root disk in bytes: the smallest
// volume there is.
const DefaultTinySize = 1 << 30

// Progress tells how far a build is.
type Progress struct {
	Step        string // what is being done, in words
	Done, Total int64  // steps done and steps in all
}

// Tiny is a built tiny image.
type Tiny struct {
	Root, Kernel, Initrd string // paths of the files
	Cmdline              string // the kernel's command line
	KernelVersion        string // such as 6.1.0-49-cloud-amd64
	Size                 int64  // of the root disk, in bytes
	Architecture         string // in EC2's terms: x86_64
}

// Missing is something that this machine lacks.
type Missing struct {
	Name    string // the program or file
	Package string // the Debian package that has it
	Reason  string // what it is needed for
}

// MissingForTiny returns what this machine lacks for building the tiny image.
func MissingForTiny() []Missing { return nil }

// BuildTiny builds the tiny image.
func BuildTiny(_ context.Context, _ TinyOptions) (*Tiny, error) {
	return nil, errors.New("build tiny image: not yet written")
}
