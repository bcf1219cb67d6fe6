package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/contexts"
	"github.com/steadcloud/stead/internal/ec2tools"
)

func newEC2(a *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ec2",
		Short: "The commands of the EC2 API tools",
		Long: `The commands of the EC2 API tools, with their own options and output, on the
cloud of the context. They also answer to their own names, short and long
(ec2reg, ec2-register), when this program is called by them: "stead ec2 link"
makes the links.`,
		Example: `  stead ec2 reg -n base --root-device-name /dev/sda1 -b /dev/sda1=snap-0a1b2c3d:8:false -a x86_64
  stead ec2 din
  stead ec2 link ~/bin && ec2din`,
	}
	group(cmd)
	for _, tool := range ec2tools.Tools() {
		cmd.AddCommand(newEC2Tool(a, tool))
	}
	cmd.AddCommand(newEC2Link(a))
	return cmd
}

func newEC2Tool(a *App, tool ec2tools.Tool) *cobra.Command {
	var aliases []string
	for _, long := range tool.Long {
		aliases = append(aliases, strings.TrimPrefix(strings.TrimPrefix(long, "ec2"), "-"))
	}
	return &cobra.Command{
		Use:                tool.Sub() + " [OPTIONS]",
		Aliases:            aliases,
		Short:              tool.Summary,
		Long:               tool.Summary + ", as " + tool.Short + " does. \"stead ec2 " + tool.Sub() + " --help\" lists its options.",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			run := func() error { return a.runEC2Tool(cmd.Context(), tool.Short, args) }
			if a.flags.dryRun {
				return a.dryRun(cmd, run)
			}
			return run()
		},
	}
}

func (a *App) runEC2Tool(ctx context.Context, name string, args []string) error {
	return ec2tools.Run(ctx, a.connectEC2Tool, name, args, ec2tools.Streams{Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr})
}

// connectEC2Tool makes the client that a tool's options ask for; what they
// leave open is the context's. The local cloud is started unless the options
// name another endpoint.
func (a *App) connectEC2Tool(ctx context.Context, asked ec2tools.Endpoint) (ec2tools.EC2, error) {
	c, err := a.currentContext()
	if err != nil {
		return nil, err
	}
	e := endpoint{context: c, region: asked.Region, url: strings.TrimSuffix(asked.URL, "/")}
	if asked.AccessKeyID != "" {
		e.keys = staticKeys(asked.AccessKeyID, asked.SecretAccessKey, asked.SessionToken)
	}
	if c.Kind == contexts.KindLocal {
		p := a.newProgress()
		defer p.close()
		if e.local, err = a.openLocal(ctx, p, a.plan == nil); err != nil {
			return nil, err
		}
	}
	return a.ec2Client(ctx, e)
}
