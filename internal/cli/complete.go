package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// completeTimeout bounds how long the shell waits for names.
const completeTimeout = 2 * time.Second

// completeServers offers the names of the servers for the first argument. It
// never starts the local cloud, and offers nothing where something fails.
func (a *App) completeServers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.serverNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
}

// completeImagesAndServers offers both for the first argument.
func (a *App) completeImagesAndServers(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	images, _ := a.completeImages(cmd, args, typed)
	servers, directive := a.completeServers(cmd, args, typed)
	return append(servers, images...), directive
}

// completeStrangers offers instances that are no server's for the second
// argument; the first is a new name.
func (a *App) completeStrangers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	if len(args) == 1 {
		a.quietly(cmd.Context(), func(ctx context.Context, s *session) error {
			orphans, err := s.servers.Orphans(ctx)
			for _, o := range orphans {
				if o.Kind == "instance" {
					ids = append(ids, cobra.CompletionWithDesc(o.ID, o.Name))
				}
			}
			return err
		})
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// completeVolumeThenServer offers volumes for the first argument and servers
// for the second.
func (a *App) completeVolumeThenServer(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch {
	case len(args) == 0:
		return a.volumeNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	case len(args) == 1 && cmd.Name() == "attach":
		return a.serverNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeContexts offers the names of the contexts.
func (a *App) completeContexts(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	store, err := a.contexts()
	if err == nil && len(args) == 0 {
		list, _ := store.List()
		for _, c := range list {
			names = append(names, c.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeSets offers the IDs of snapshot sets.
func (a *App) completeSets(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	a.quietly(cmd.Context(), func(ctx context.Context, s *session) error {
		sets, err := s.servers.Snapshots(ctx, "")
		for _, set := range sets {
			if !slices.Contains(args, set.ID) {
				ids = append(ids, cobra.CompletionWithDesc(set.ID, joined(set.Server, a.age(set.Started)+" old")))
			}
		}
		return err
	})
	return ids, cobra.ShellCompDirectiveNoFileComp
}

func (a *App) serverNames(ctx context.Context) []string {
	var names []string
	a.quietly(ctx, func(ctx context.Context, s *session) error {
		servers, err := s.servers.List(ctx)
		for _, v := range servers {
			names = append(names, cobra.CompletionWithDesc(v.Name, v.State))
		}
		return err
	})
	return names
}

func (a *App) volumeNames(ctx context.Context) []string {
	var names []string
	a.quietly(ctx, func(ctx context.Context, s *session) error {
		disks, err := s.servers.VolumeList(ctx, "")
		for _, d := range disks {
			names = append(names, cobra.CompletionWithDesc(d.VolumeID, joined(d.Server, humanGiB(d.SizeGiB))))
		}
		return err
	})
	slices.Sort(names)
	return names
}

// quietly calls fn with a connection if there is one to be had soon.
func (a *App) quietly(ctx context.Context, fn func(context.Context, *session) error) {
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	c, err := a.currentContext()
	if err != nil {
		return
	}
	a.flags.quiet = true
	s, err := a.openContext(ctx, c, false)
	if err != nil {
		return
	}
	defer s.close()
	_ = fn(ctx, s) // no names is all that a shell can show of an error
}
