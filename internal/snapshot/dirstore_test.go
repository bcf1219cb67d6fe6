package snapshot_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/snapshot/storetest"
)

func openStore(t testing.TB, path string) *snapshot.DirStore {
	t.Helper()
	store, err := snapshot.OpenDir(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func TestDirStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) snapshot.Store { return openStore(t, filepath.Join(t.TempDir(), "store")) })
}

func TestOneProcessHasAStoreOpen(t *testing.T) {
	path := t.TempDir()
	first := openStore(t, path)
	if _, err := snapshot.OpenDir(path, slog.New(slog.DiscardHandler)); !errors.Is(err, snapshot.ErrLocked) {
		t.Fatalf("second open: %v, want ErrLocked", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	openStore(t, path)
}

func TestNewerStoreIsRefused(t *testing.T) {
	path := t.TempDir()
	if err := openStore(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "format"), []byte("stead snapshot store 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.OpenDir(path, slog.New(slog.DiscardHandler)); !errors.Is(err, snapshot.ErrVersion) {
		t.Fatalf("open: %v, want ErrVersion", err)
	}
}

func TestStoreIsForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := openStore(t, path)
	snap(t, store, "s", data(t, 3<<20))
	err := filepath.WalkDir(path, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
