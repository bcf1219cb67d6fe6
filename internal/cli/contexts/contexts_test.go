package contexts_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/steadcloud/stead/internal/cli/contexts"
)

func TestLocalIsTheDefaultAndBuiltIn(t *testing.T) {
	s := contexts.Open(filepath.Join(t.TempDir(), "not", "there", "yet"))
	c, err := s.Current("", "")
	if err != nil || c.Name != contexts.Local || c.Kind != contexts.KindLocal {
		t.Fatalf("current context of an empty store: %+v, %v", c, err)
	}
	if _, err := os.Stat(s.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reading made a file: %v", err)
	}
	if _, err := s.Create(contexts.Context{Name: contexts.Local}); !errors.Is(err, contexts.ErrBuiltIn) {
		t.Errorf("create local: %v", err)
	}
	if err := s.Remove(contexts.Local); !errors.Is(err, contexts.ErrBuiltIn) {
		t.Errorf("remove local: %v", err)
	}
}

func TestSelection(t *testing.T) {
	s := contexts.Open(t.TempDir())
	for _, name := range []string{"flag", "env", "used"} {
		if _, err := s.Create(contexts.Context{Name: name, Region: "eu-west-1"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Use("used"); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ explicit, env, want string }{
		{"flag", "env", "flag"},
		{"", "env", "env"},
		{"", "", "used"},
		{"local", "env", "local"},
	}
	for _, tt := range tests {
		c, err := s.Current(tt.explicit, tt.env)
		if err != nil || c.Name != tt.want {
			t.Errorf("Current(%q, %q) = %s, %v; want %s", tt.explicit, tt.env, c.Name, err, tt.want)
		}
	}
	for _, tt := range []struct{ explicit, env string }{{"gone", ""}, {"", "gone"}} {
		if c, err := s.Current(tt.explicit, tt.env); !errors.Is(err, contexts.ErrNotFound) {
			t.Errorf("Current(%q, %q) = %s, %v; want ErrNotFound", tt.explicit, tt.env, c.Name, err)
		}
	}
	if err := s.Remove("used"); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Current("", ""); err != nil || c.Name != contexts.Local {
		t.Errorf("after removing the used context: %s, %v", c.Name, err)
	}
}

func TestCreateChecks(t *testing.T) {
	s := contexts.Open(t.TempDir())
	tests := []struct {
		in   contexts.Context
		want error
	}{
		{contexts.Context{Name: ""}, contexts.ErrInvalid},
		{contexts.Context{Name: "Upper"}, contexts.ErrInvalid},
		{contexts.Context{Name: "-flag"}, contexts.ErrInvalid},
		{contexts.Context{Name: "a/b"}, contexts.ErrInvalid},
		{contexts.Context{Name: "e", EndpointURL: "localhost:5000"}, contexts.ErrInvalid},
		{contexts.Context{Name: "e", EndpointURL: "ftp://h/"}, contexts.ErrInvalid},
		{contexts.Context{Name: "e", EndpointURL: "http://127.0.0.1:5000"}, nil},
		{contexts.Context{Name: "e", EndpointURL: "http://127.0.0.1:5000"}, contexts.ErrExists},
		{contexts.Context{Name: "prod", Profile: "p"}, nil},
	}
	for _, tt := range tests {
		if _, err := s.Create(tt.in); !errors.Is(err, tt.want) {
			t.Errorf("Create(%+v) = %v, want %v", tt.in, err, tt.want)
		}
	}
	e, err := s.Get("e")
	if err != nil || e.Kind != contexts.KindEndpoint || e.Region != contexts.DefaultEndpointRegion {
		t.Errorf("endpoint context: %+v, %v", e, err)
	}
	p, err := s.Get("prod")
	if err != nil || p.Kind != contexts.KindAWS || p.Region != "" {
		t.Errorf("AWS context: %+v, %v", p, err)
	}
}

func TestFileIsPrivateAndWhole(t *testing.T) {
	s := contexts.Open(t.TempDir())
	var wg sync.WaitGroup
	const writers = 16
	for i := range writers {
		wg.Go(func() {
			if _, err := s.Create(contexts.Context{Name: fmt.Sprintf("c%d", i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := s.List()
	if err != nil || len(list) != writers+1 {
		t.Fatalf("%d contexts, %v; want %d: a writer lost another's change", len(list), err, writers+1)
	}
	info, err := os.Stat(s.Path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.Path()), "*.tmp")); len(left) > 0 {
		t.Errorf("temporary files stayed: %v", left)
	}
}

func TestDamagedFileIsAnError(t *testing.T) {
	for _, content := range []string{"", "{", `{"version": 99}`, "[]"} {
		s := contexts.Open(t.TempDir())
		if err := os.WriteFile(s.Path(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := s.Current("", ""); err == nil {
			t.Errorf("file %q: took context %s instead of an error", content, c.Name)
		}
		if _, err := s.Create(contexts.Context{Name: "x"}); err == nil {
			t.Errorf("file %q: was written over", content)
		}
	}
}
