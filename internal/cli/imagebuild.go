package cli

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/server"
)

// builtImages are the images that the local cloud builds, by their aliases.
func builtImages() []string { return []string{localImage, "debian"} }

func newImageBuild(a *App) *cobra.Command {
	var suite string
	cmd := &cobra.Command{
		Use:   "build NAME",
		Short: "Build an image for the local cloud",
		Long: `Builds an image for the local cloud. "tiny" is a small Linux with ssh, ready in
seconds; "stead create" builds it by itself when it needs it. "debian" is Debian
with cloud-init, as on EC2: it is installed from the mirror that this machine is
set to, in a minute or two, and needs no root. It boots by BIOS and by UEFI.

Ctrl-C gives a build up; nothing but downloaded packages stays.`,
		Example: `  stead image build tiny
  stead image build debian
  stead image build debian --suite trixie`,
		Args:              exactly("NAME"),
		ValidArgsFunction: cobra.FixedCompletions(builtImages(), cobra.ShellCompDirectiveNoFileComp),
	}
	cmd.Flags().StringVar(&suite, "suite", "", "`RELEASE` of Debian, by its code name (default bookworm)")
	return a.command(cmd, func(ctx context.Context, args []string) error { return a.imageBuild(ctx, args[0], suite) })
}

func (a *App) imageBuild(ctx context.Context, name, suite string) error {
	switch {
	case !slices.Contains(builtImages(), name):
		return usage("image %q can't be built: there are %s", name, strings.Join(builtImages(), " and "))
	case suite != "" && name == localImage:
		return usage("image %s has no --suite", name)
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if s.local == nil {
		return &server.Error{
			Code: server.KindUnsupported, Op: "build image", Resource: name,
			Reason: "context " + s.context.Name + " is not the local cloud",
			Remedy: "stead --context local image build " + name,
		}
	}
	if suite != "" {
		name += ":" + suite
	}
	id, err := s.build(ctx, name)
	if err != nil {
		return err
	}
	built, err := s.servers.ResolveImage(ctx, id, "")
	s.close()
	if err != nil {
		return err
	}
	return a.print(built, func(w io.Writer) { writeImages(w, []server.Image{*built}) })
}
