package cli

import (
	"path/filepath"

	"github.com/steadcloud/stead/internal/cli/contexts"
	"github.com/steadcloud/stead/internal/server"
)

// rootDataDir is the local cloud's folder when the superuser runs it.
const rootDataDir = "/var/lib/stead"

// configDir is where contexts, stead's ssh key and known hosts lie:
// STEAD_CONFIG_DIR, else $XDG_CONFIG_HOME/stead, else ~/.config/stead.
func (a *App) configDir() (string, error) {
	if dir := a.Getenv("STEAD_CONFIG_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	// The specification has a relative path ignored.
	if base := a.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "stead"), nil
	}
	if home := a.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".config", "stead"), nil
	}
	return "", noHome("configuration", "STEAD_CONFIG_DIR")
}

// dataDir is the local cloud's folder: --data-dir, else STEAD_DATA_DIR, else
// /var/lib/stead for the superuser and $XDG_DATA_HOME/stead or
// ~/.local/share/stead for everybody else.
func (a *App) dataDir() (string, error) {
	for _, dir := range []string{a.flags.dataDir, a.Getenv("STEAD_DATA_DIR")} {
		if dir != "" {
			return filepath.Abs(dir)
		}
	}
	if a.Root {
		return rootDataDir, nil
	}
	if base := a.Getenv("XDG_DATA_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "stead"), nil
	}
	if home := a.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "share", "stead"), nil
	}
	return "", noHome("data", "STEAD_DATA_DIR")
}

// cacheDir is where what can be fetched again lies: STEAD_CACHE_DIR, else
// $XDG_CACHE_HOME/stead, else ~/.cache/stead.
func (a *App) cacheDir() (string, error) {
	if dir := a.Getenv("STEAD_CACHE_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	if base := a.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "stead"), nil
	}
	if home := a.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".cache", "stead"), nil
	}
	return "", noHome("cache", "STEAD_CACHE_DIR")
}

func noHome(what, variable string) error {
	return &server.Error{
		Code: server.KindUsage, Op: "find the " + what + " folder", Reason: "HOME isn't set",
		Remedy: "set HOME or " + variable,
	}
}

func (a *App) contexts() (*contexts.Store, error) {
	dir, err := a.configDir()
	if err != nil {
		return nil, err
	}
	return contexts.Open(dir), nil
}

// currentContext is the cloud that this run is about.
func (a *App) currentContext() (contexts.Context, error) {
	store, err := a.contexts()
	if err != nil {
		return contexts.Context{}, err
	}
	return store.Current(a.flags.context, a.Getenv("STEAD_CONTEXT"))
}
