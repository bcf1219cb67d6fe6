package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/awscli"
	"github.com/steadcloud/stead/internal/blocks"
	"github.com/steadcloud/stead/internal/cli/sshclient"
	"github.com/steadcloud/stead/internal/dryrun"
	"github.com/steadcloud/stead/internal/server"
)

// Who else than a cloud's API acts in a plan.
const (
	actorGuest = "guest" // a script, run as root inside a server
	actorStead = "stead" // the local cloud's own work, beyond EC2
)

// planStep is a step of a plan as it is shown.
type planStep struct {
	Service   string         `json:"service"`   // ec2, dlm …, guest or stead
	Operation string         `json:"operation"` // RunInstances
	Input     map[string]any `json:"input"`     // as --cli-input-json takes it
	Command   string         `json:"command"`   // the line that does the same
	Region    string         `json:"region,omitempty"`
	Context   string         `json:"context,omitempty"` // where it isn't the command's own
	Times     string         `json:"times,omitempty"`   // of a step that stands for many
}

// dryRun runs a verb on what would be, and prints what it would change. What
// the verb itself has to say is about things that aren't there, so it is left
// out.
func (a *App) dryRun(cmd *cobra.Command, run func() error) error {
	how, why := dryRunOf(cmd.CommandPath())
	if fix, err := cmd.Flags().GetBool("fix"); err == nil && fix {
		how = dryRunPlans // doctor
	}
	switch how {
	case dryRunReads:
		return run()
	case dryRunRefused:
		return &server.Error{
			Code: server.KindUnsupported, Op: "plan", Resource: "`" + cmd.CommandPath() + "`", Reason: why,
			Remedy: "leave --dry-run away",
		}
	case dryRunPlans:
	}
	stdout := a.Stdout
	a.Stdout, a.plan, a.planned = io.Discard, dryrun.NewPlan(), ""
	err := run()
	a.Stdout = stdout
	steps := a.planSteps(a.plan.Steps())
	a.plan = nil
	if err != nil && len(steps) == 0 {
		return err
	}
	if err := a.print(steps, func(w io.Writer) { a.writePlan(w, steps) }); err != nil {
		return err
	}
	var status exitError
	if errors.As(err, &status) || errors.Is(err, errUnhealthy) {
		return nil // of a program that didn't run, or of what isn't mended yet
	}
	return err
}

func (a *App) planSteps(steps []dryrun.Step) []planStep {
	list := []planStep{}
	for _, s := range steps {
		p := planStep{Service: strings.ToLower(s.Service), Operation: s.Operation, Region: s.Region, Times: s.Often()}
		if s.Place != a.planned {
			p.Context = s.Place
		}
		switch in := s.Input.(type) {
		case *exportPlan:
			p.Input = map[string]any{
				"snapshot_id": in.Snapshot, "path": in.Path, "format": in.Format, "size_gib": in.SizeGiB,
				"blocks": in.Blocks, "moved_bytes": in.Moved, "reused_bytes": in.Reused,
			}
			p.Command = sshclient.Quote(append([]string{"stead"}, in.line()...))
			p.Times = movedText(int64(in.SizeGiB)<<30, blocks.Progress{Moved: in.Moved, Reused: in.Reused})
		case guestScript:
			p.Input, p.Command = map[string]any{"server": in.server, "script": in.script}, sshclient.Quote([]string{"stead", "exec", in.server, "--", in.script})
		case steadCommand:
			p.Input, p.Command = map[string]any{"arguments": []string(in)}, sshclient.Quote(append([]string{"stead"}, in...))
		default:
			p.Input = awscli.Params(s.Input)
			p.Command = awscli.Line(s.Service, s.Operation, s.Input) + regionFlag(s.Region, a.region)
		}
		list = append(list, p)
	}
	return list
}

// guestScript and steadCommand are the inputs of steps that no cloud's API
// takes.
type guestScript struct{ server, script string }

type steadCommand []string

func (a *App) writePlan(w io.Writer, steps []planStep) {
	if len(steps) == 0 {
		fmt.Fprintln(w, "nothing to change")
		return
	}
	for k, s := range steps {
		line := s.Command
		if a.flags.explain == "" {
			line = s.Operation + "  " + brief(s)
		}
		if s.Times != "" {
			line += "  (" + s.Times + ")"
		}
		if s.Context != "" {
			line = "[" + s.Context + "] " + line
		}
		fmt.Fprintf(w, "%2d  %s\n", k+1, line)
	}
}

// brief is the gist of a step: its options that are words, the others counted.
func brief(s planStep) string {
	if s.Service == actorGuest || s.Service == actorStead {
		return oneLine(s.Command)
	}
	words := strings.TrimPrefix(s.Command, "aws "+s.Service+" "+awscli.Kebab(s.Operation))
	return oneLine(strings.TrimSpace(words))
}

// maxBrief is how much of a step is shown when nobody asked for all of it.
const maxBrief = 160

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > maxBrief {
		s = string(runes[:maxBrief]) + "…"
	}
	return s
}

// dryGuest shows the scripts that would run inside a server and runs none, but
// for those that only look.
type dryGuest struct {
	plan *dryrun.Plan
	real server.Guest
}

// Look implements server.Looker.
func (g dryGuest) Look(ctx context.Context, s *server.Server, script string) (string, error) {
	if dryrun.Placeholder(s.InstanceID) {
		return "", nil // nothing is wrong yet with what isn't there
	}
	return g.real.Run(ctx, s, script)
}

// Run implements server.Guest.
func (g dryGuest) Run(_ context.Context, s *server.Server, script string) (string, error) {
	g.plan.Add(dryrun.Step{Service: actorGuest, Operation: "Run", Input: guestScript{s.Name, script}})
	return "", nil
}

// dryDial answers for the ssh of servers that may not be there: as one that is
// up, but for the moment in which a reboot is waited for.
type dryDial struct {
	plan *dryrun.Plan
	mu   sync.Mutex
	seen int // reboots that were answered for
}

func (d *dryDial) dial(context.Context, string, string) (net.Conn, error) {
	reboots := 0
	for _, s := range d.plan.Steps() {
		if s.Operation == "RebootInstances" {
			reboots++
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if reboots > d.seen {
		d.seen = reboots
		return nil, errors.New("it reboots")
	}
	near, far := net.Pipe()
	go func() {
		w := bufio.NewWriter(far)
		fmt.Fprint(w, "SSH-2.0-dry-run\r\n")
		_ = w.Flush() // who doesn't read it has seen enough
		_ = far.Close()
	}()
	return near, nil
}

// foreseen returns the view of the region that a configuration leads to.
func (a *App) foreseen(cfg aws.Config) *dryrun.Cloud {
	key := cfg.Region + " " + aws.ToString(cfg.BaseEndpoint)
	if a.views[key] == nil || a.views[key].plan != a.plan {
		if a.views == nil {
			a.views = map[string]*planView{}
		}
		direct := ec2.NewFromConfig(cfg, func(o *ec2.Options) { o.BaseEndpoint = cfg.BaseEndpoint })
		view := &planView{plan: a.plan, cloud: a.plan.Over(direct, cfg.Region)}
		view.cloud.Regions(func(region string) dryrun.Reader {
			return ec2.NewFromConfig(cfg, func(o *ec2.Options) { o.BaseEndpoint, o.Region = cfg.BaseEndpoint, region })
		})
		view.cloud.Policies(dlm.NewFromConfig(cfg, func(o *dlm.Options) { o.BaseEndpoint = cfg.BaseEndpoint }))
		a.views[key] = view
	}
	return a.views[key].cloud
}

// planView is a region in a plan.
type planView struct {
	plan  *dryrun.Plan
	cloud *dryrun.Cloud
}

// planImage plans the build of the local cloud's own image, and goes on as if
// it were there.
func (s *session) planImage(name string) string {
	name, suite, _ := strings.Cut(name, ":")
	line := steadCommand{"image", "build", name}
	if suite != "" {
		line = append(line, "--suite", suite)
	}
	return s.planMade("BuildImage", line, name+" (to be built)", "/dev/sda1")
}

// planMade plans what makes an image by other means than EC2's.
func (s *session) planMade(operation string, line steadCommand, name, rootDevice string) string {
	s.plan.Add(dryrun.Step{Service: actorStead, Operation: operation, Input: line})
	return s.foreseen.Foresee(types.Image{
		Name: &name, Architecture: types.ArchitectureValuesX8664,
		VirtualizationType: types.VirtualizationTypeHvm, RootDeviceName: &rootDevice,
		BlockDeviceMappings: []types.BlockDeviceMapping{{
			DeviceName: &rootDevice, Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(1)},
		}},
	})
}
