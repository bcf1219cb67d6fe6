package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/contexts"
)

func newContext(a *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "context",
		Aliases: []string{"contexts"},
		Short:   "Choose the cloud: this machine, AWS, or any EC2 endpoint",
		Long: `A context is a name for a cloud. "local" is the one on this machine, always
there and the default. --context and STEAD_CONTEXT choose another for one
command, "stead context use" for all that follow. AWS_* variables never do.`,
		Example: `  stead context create prod --profile work --region eu-central-1
  stead context use prod`,
	}
	group(cmd)
	cmd.AddCommand(newContextCreate(a), newContextLs(a), newContextUse(a), newContextShow(a), newContextRm(a))
	return cmd
}

func newContextCreate(a *App) *cobra.Command {
	var c contexts.Context
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Name a cloud",
		Long: `Names a cloud on AWS, or with --endpoint-url any other that speaks EC2.
Credentials are not stored: they are found as all AWS tools find them, by
--profile if one is given.`,
		Example: `  stead context create prod --profile work --region eu-central-1
  stead context create lab --endpoint-url https://ec2.lab.example:8788`,
		Args: exactly("NAME"),
	}
	cmd.Flags().StringVar(&c.Profile, "profile", "", "`NAME` of the profile in the AWS configuration")
	cmd.Flags().StringVar(&c.Region, "region", "", "`REGION` (default the profile's, or AWS_REGION)")
	cmd.Flags().StringVar(&c.EndpointURL, "endpoint-url", "", "`URL` of an EC2 endpoint other than AWS's")
	return a.command(cmd, func(_ context.Context, args []string) error {
		c.Name = args[0]
		store, err := a.contexts()
		if err != nil {
			return err
		}
		made, err := store.Create(c)
		if err != nil {
			return err
		}
		return a.print(made, func(w io.Writer) {
			fmt.Fprintf(w, "context %s is made; to use it: stead context use %s\n", made.Name, made.Name)
		})
	})
}

// listedContext is a context with whether it is in force.
type listedContext struct {
	contexts.Context
	Current bool `json:"current"`
}

func newContextLs(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the contexts",
		Example: "  stead context ls", Args: exactly(),
	}, func(context.Context, []string) error { return a.contextLs() })
}

func (a *App) contextLs() error {
	store, err := a.contexts()
	if err != nil {
		return err
	}
	list, err := store.List()
	if err != nil {
		return err
	}
	current, err := a.currentContext()
	if err != nil && a.flags.context != "" {
		return err
	}
	// A name chosen wrongly for all commands must not hide the right ones.
	listed := make([]listedContext, 0, len(list))
	for _, c := range list {
		listed = append(listed, listedContext{Context: c, Current: c.Name == current.Name})
	}
	return a.print(listed, func(w io.Writer) {
		t := table{heading: []string{"CURRENT", "NAME", "KIND", "PROFILE", "REGION", "ENDPOINT"}}
		for _, c := range listed {
			mark := " "
			if c.Current {
				mark = "*"
			}
			t.add(mark, c.Name, string(c.Kind), c.Profile, c.Region, c.EndpointURL)
		}
		t.write(w)
	})
}

func newContextUse(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "use NAME", Short: "Choose the context for the commands that follow",
		Example: "  stead context use local", Args: exactly("NAME"), ValidArgsFunction: a.completeContexts,
	}, func(_ context.Context, args []string) error {
		store, err := a.contexts()
		if err != nil {
			return err
		}
		if err := store.Use(args[0]); err != nil {
			return err
		}
		if env := a.Getenv("STEAD_CONTEXT"); env != "" && env != args[0] {
			fmt.Fprintf(a.Stderr, "warning: STEAD_CONTEXT=%s goes before it in this shell\n", env)
		}
		c, err := store.Get(args[0])
		if err != nil {
			return err
		}
		return a.print(c, func(w io.Writer) { fmt.Fprintf(w, "the context is now %s\n", c.Name) })
	})
}

func newContextShow(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "show [NAME]", Short: "Show a context, by default the one in force",
		Example: "  stead context show", Args: atMost("NAME"), ValidArgsFunction: a.completeContexts,
	}, func(_ context.Context, args []string) error { return a.contextShow(args) })
}

func (a *App) contextShow(args []string) error {
	c, err := a.currentContext()
	if len(args) == 1 {
		var store *contexts.Store
		if store, err = a.contexts(); err == nil {
			c, err = store.Get(args[0])
		}
	}
	if err != nil {
		return err
	}
	return a.print(c, func(w io.Writer) {
		fmt.Fprintf(w, "%s  %s\n", c.Name, c.Kind)
		for _, f := range []fact{{"profile", c.Profile}, {"region", c.Region}, {"endpoint", c.EndpointURL}} {
			if f.value != "" {
				fmt.Fprintf(w, "  %-8s  %s\n", f.name, f.value)
			}
		}
	})
}

func newContextRm(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "rm NAME", Aliases: []string{"remove"}, Short: "Forget a context",
		Long:    "Forgets the name of a cloud. The cloud and the servers there are untouched.",
		Example: "  stead context rm lab", Args: exactly("NAME"), ValidArgsFunction: a.completeContexts,
	}, func(_ context.Context, args []string) error {
		store, err := a.contexts()
		if err != nil {
			return err
		}
		if err := store.Remove(args[0]); err != nil {
			return err
		}
		return a.print(map[string]string{"removed": args[0]}, func(w io.Writer) {
			fmt.Fprintf(w, "context %s is forgotten; its cloud is untouched\n", args[0])
		})
	})
}
