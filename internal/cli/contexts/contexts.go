// Package contexts keeps the list of clouds that the command line can talk to.
//
// A context is a name for a cloud: the local one, an AWS profile and region,
// or any endpoint that speaks EC2. The context "local" always exists, is the
// default, and can be neither changed nor removed. The rest live in one file,
// contexts.json in the configuration folder, which holds no secrets but is
// kept private (0600) all the same.
//
// The current context is chosen by, in this order, an explicit name (the
// --context flag), STEAD_CONTEXT, what Use recorded, and "local". AWS_*
// variables never choose one: they hold credentials, and a shell that still
// has them set must not send a command to another cloud.
package contexts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"sync"

	"github.com/steadcloud/stead/internal/cli/privatefile"
)

// Local is the name of the built-in context.
const Local = "local"

// DefaultEndpointRegion is the region of a context that has an endpoint of
// its own and was given no region: signatures need one, whatever it is.
const DefaultEndpointRegion = "us-east-1"

const (
	fileName    = "contexts.json"
	fileVersion = 1
)

// Errors that callers tell apart with errors.Is.
var (
	ErrNotFound = errors.New("no such context")
	ErrExists   = errors.New("context exists already")
	ErrBuiltIn  = errors.New("the local context is built in")
	ErrInvalid  = errors.New("invalid context")
	ErrNewer    = errors.New("the file is of a newer version")
)

// FileError is about the file of the contexts: it can't be read or understood.
type FileError struct {
	Path string
	Err  error
}

// Error names the file.
func (e *FileError) Error() string { return "read contexts " + e.Path + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// Kind says how a context's cloud is reached.
type Kind string

// The kinds of contexts.
const (
	KindLocal    Kind = "local"    // the cloud on this machine
	KindAWS      Kind = "aws"      // AWS itself
	KindEndpoint Kind = "endpoint" // any other EC2 endpoint
)

// Context is one cloud.
type Context struct {
	Name        string `json:"name"`
	Kind        Kind   `json:"kind"`
	Profile     string `json:"profile,omitempty"`      // of the AWS configuration files
	Region      string `json:"region,omitempty"`       // empty: as the AWS tools find it
	EndpointURL string `json:"endpoint_url,omitempty"` // empty: AWS's own
}

// Store is the file that holds the contexts.
type Store struct{ dir string }

// file is the stored form; it carries a version so that a later release can
// tell what it reads.
type file struct {
	Version  int                `json:"version"`
	Current  string             `json:"current,omitempty"`
	Contexts map[string]Context `json:"contexts,omitempty"`
}

// Open returns the store in the configuration folder dir. Nothing is read or
// made until it is needed.
func Open(dir string) *Store { return &Store{dir: dir} }

// Path returns where the store lies.
func (s *Store) Path() string { return filepath.Join(s.dir, fileName) }

// List returns all contexts by name, the built-in one first.
func (s *Store) List() ([]Context, error) {
	f, err := s.load()
	if err != nil {
		return nil, err
	}
	list := make([]Context, 0, len(f.Contexts)+1)
	for _, c := range f.Contexts {
		list = append(list, c)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return append([]Context{localContext()}, list...), nil
}

// Get returns the context called name, or ErrNotFound.
func (s *Store) Get(name string) (Context, error) {
	if name == Local {
		return localContext(), nil
	}
	f, err := s.load()
	if err != nil {
		return Context{}, err
	}
	c, ok := f.Contexts[name]
	if !ok {
		return Context{}, fmt.Errorf("context %s: %w", name, ErrNotFound)
	}
	return c, nil
}

// Current returns the context in force: explicit if it isn't empty, else
// fromEnv (the value of STEAD_CONTEXT), else the one chosen by Use, else the
// local one. A name that doesn't exist is ErrNotFound, never a silent
// fallback to another cloud.
func (s *Store) Current(explicit, fromEnv string) (Context, error) {
	for _, name := range []string{explicit, fromEnv} {
		if name != "" {
			return s.Get(name)
		}
	}
	f, err := s.load()
	if err != nil {
		return Context{}, err
	}
	if f.Current == "" {
		return localContext(), nil
	}
	return s.Get(f.Current)
}

// Create adds c after checking it. It sets c.Kind from the endpoint, and the
// region of an endpoint without one, and returns what was stored. ErrExists
// when the name is taken, ErrInvalid when a field is wrong.
func (s *Store) Create(c Context) (Context, error) {
	if c.Name == Local {
		return Context{}, fmt.Errorf("create context: %w", ErrBuiltIn)
	}
	if err := check(c); err != nil {
		return Context{}, err
	}
	c.Kind = KindAWS
	if c.EndpointURL != "" {
		c.Kind = KindEndpoint
		if c.Region == "" {
			c.Region = DefaultEndpointRegion
		}
	}
	err := s.update(func(f *file) error {
		if _, ok := f.Contexts[c.Name]; ok {
			return fmt.Errorf("create context %s: %w", c.Name, ErrExists)
		}
		f.Contexts[c.Name] = c
		return nil
	})
	return c, err
}

// Use makes name the current context.
func (s *Store) Use(name string) error {
	return s.update(func(f *file) error {
		if _, ok := f.Contexts[name]; !ok && name != Local {
			return fmt.Errorf("use context %s: %w", name, ErrNotFound)
		}
		f.Current = name
		return nil
	})
}

// Remove forgets the context; its cloud and what runs there are untouched.
// If it was the current one, the local one is current again.
func (s *Store) Remove(name string) error {
	if name == Local {
		return fmt.Errorf("remove context: %w", ErrBuiltIn)
	}
	return s.update(func(f *file) error {
		if _, ok := f.Contexts[name]; !ok {
			return fmt.Errorf("remove context %s: %w", name, ErrNotFound)
		}
		delete(f.Contexts, name)
		if f.Current == name {
			f.Current = ""
		}
		return nil
	})
}

func localContext() Context { return Context{Name: Local, Kind: KindLocal} }

var validName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`) })

func check(c Context) error {
	if !validName().MatchString(c.Name) {
		return fmt.Errorf("%w: name %q: use up to 63 small letters, digits, '.', '_' and '-', a letter or digit first", ErrInvalid, c.Name)
	}
	if c.EndpointURL == "" {
		return nil
	}
	u, err := url.Parse(c.EndpointURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%w: endpoint %q: want http://HOST:PORT or https://HOST", ErrInvalid, c.EndpointURL)
	}
	return nil
}

func (s *Store) load() (*file, error) {
	f := &file{Version: fileVersion, Contexts: map[string]Context{}}
	data, err := os.ReadFile(s.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, &FileError{Path: s.Path(), Err: cause(err)}
	}
	if err := json.Unmarshal(data, f); err != nil {
		return nil, &FileError{Path: s.Path(), Err: err}
	}
	if f.Version != fileVersion {
		return nil, &FileError{Path: s.Path(), Err: fmt.Errorf("%w (%d, this stead knows %d)", ErrNewer, f.Version, fileVersion)}
	}
	if f.Contexts == nil {
		f.Contexts = map[string]Context{}
	}
	return f, nil
}

// cause is the system's reason without the path, which FileError names.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// update changes the file under a lock, so that two commands at once don't
// lose each other's change.
func (s *Store) update(change func(*file) error) error {
	unlock, err := privatefile.Lock(filepath.Join(s.dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	f, err := s.load()
	if err != nil {
		return err
	}
	if err := change(f); err != nil {
		return err
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	return privatefile.Write(s.Path(), append(data, '\n'))
}
