package cli

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// completion offers the values of a flag or an argument.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeFlags gives each flag of a known name, wherever it is, the values
// that the current cloud has. A command that offers its own keeps them.
func (a *App) completeFlags(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		a.completeFlags(c)
	}
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if offer := a.flagValues(f); offer != nil {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, offer) // an error: it has its own
		}
	})
}

// flagValues tells by a flag's name what its values are, nil for any.
func (a *App) flagValues(f *pflag.Flag) completion {
	switch f.Name {
	case "image":
		return a.live(imageNames)
	case "zone":
		return a.live(zoneNames)
	case "set":
		return a.live(setNames)
	case "type":
		if strings.HasPrefix(f.Usage, "volume") {
			return cobra.FixedCompletions([]string{"gp3", "gp2", "io2", "io1", "st1", "sc1", "standard"}, cobra.ShellCompDirectiveNoFileComp)
		}
		return a.live(typeNames)
	case "mount", "device", "from", "open", "note", "name":
		return cobra.NoFileCompletions
	}
	return nil
}

// live offers names that the current cloud has, if it answers soon.
func (a *App) live(names func(ctx context.Context, s *session, args []string, typed string) ([]string, error)) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		var list []string
		a.quietly(cmd.Context(), func(ctx context.Context, s *session) (err error) {
			list, err = names(ctx, s, args, typed)
			return err
		})
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

func imageNames(ctx context.Context, s *session, _ []string, _ string) ([]string, error) {
	images, err := s.servers.ImageList(ctx)
	var names []string
	for _, i := range images {
		if i.Alias != "" {
			names = append(names, cobra.CompletionWithDesc(i.Alias, i.Name))
		}
		names = append(names, cobra.CompletionWithDesc(i.ID, i.Name))
	}
	return names, err
}

func zoneNames(ctx context.Context, s *session, _ []string, _ string) ([]string, error) {
	out, err := s.api.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, z := range out.AvailabilityZones {
		names = append(names, aws.ToString(z.ZoneName))
	}
	return names, nil
}

// setNames offers the snapshot sets of the server that the line names.
func setNames(ctx context.Context, s *session, args []string, _ string) ([]string, error) {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	sets, err := s.servers.Snapshots(ctx, name)
	var names []string
	for _, set := range sets {
		names = append(names, cobra.CompletionWithDesc(set.ID, strings.TrimSpace(set.Server+" "+set.Note)))
	}
	return names, err
}

// typeNames offers the instance types that begin as typed.
func typeNames(ctx context.Context, s *session, _ []string, typed string) ([]string, error) {
	in := &ec2.DescribeInstanceTypesInput{}
	if typed != "" {
		in.Filters = []types.Filter{{Name: aws.String("instance-type"), Values: []string{typed + "*"}}}
	}
	var names []string
	pages := ec2.NewDescribeInstanceTypesPaginator(s.api, in)
	for pages.HasMorePages() {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return names, err
		}
		for _, t := range out.InstanceTypes {
			names = append(names, string(t.InstanceType))
		}
	}
	return names, nil
}
