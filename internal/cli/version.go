package cli

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildVersion is what the Go toolchain recorded: a release's tag, or a
// pseudo-version of the commit, "+dirty" when files were changed since.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use:     "version",
		Short:   "Print the version of stead",
		Example: "  stead version -o json",
		Args:    exactly(),
	}, func(context.Context, []string) error {
		v := versionInfo{Version: a.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
		return a.print(v, func(w io.Writer) {
			fmt.Fprintf(w, "stead %s (%s, %s)\n", v.Version, v.Go, v.Platform)
		})
	})
}
