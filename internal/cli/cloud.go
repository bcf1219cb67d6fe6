package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/server"
)

func newCloud(a *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cloud",
		Short: "The local cloud: start, stop, status, logs, environment",
		Long: `The local cloud is an EC2 endpoint on this machine, with real disks and real
machines. stead starts it by itself when the local context needs it.`,
		Example: `  stead cloud status
  eval "$(stead cloud env)" && aws ec2 describe-instances
  stead cloud stop`,
	}
	group(cmd)
	cmd.AddCommand(newCloudStart(a), newCloudStop(a), newCloudStatus(a), newCloudRun(a), newCloudLogs(a), newCloudEnv(a), newCloudInterrupt(a), newCloudStore(a))
	return cmd
}

// cloudFlags are those of the daemon. Their defaults come from the
// environment, so that a cloud that starts by itself is like one started by
// hand.
type cloudFlags struct {
	listen, machines, accel, account, trashDays string
	egress, stopOnly                            bool
	chosen                                      bool // the machines, by their flag
}

func (o *cloudFlags) add(a *App, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", a.Getenv("STEAD_LISTEN"), "`HOST:PORT` of the API (default 127.0.0.1:8773)")
	f.StringVar(&o.machines, "machines", a.envOrAuto("STEAD_MACHINES"), "`KIND` of machines: auto, or none for the API alone")
	f.StringVar(&o.accel, "accel", a.envOrAuto("STEAD_ACCEL"), "`KIND` of acceleration: auto, kvm or tcg")
	f.StringVar(&o.account, "account-id", a.Getenv("STEAD_ACCOUNT_ID"), "account `ID`, twelve digits")
	f.StringVar(&o.trashDays, "trash-days", a.Getenv("STEAD_TRASH_DAYS"), "`DAYS` that a deleted snapshot can be had back, 0 for none (default 7)")
	f.BoolVar(&o.egress, "egress", a.egress(), "let machines reach beyond the cloud")
}

// start are the options of a daemon that these flags ask for.
func (o *cloudFlags) start(dir, version string) cloud.StartOptions {
	return cloud.StartOptions{
		DataDir: dir, Version: version, Listen: o.listen, Machines: o.machines,
		Accel: o.accel, Account: o.account, Egress: o.egress, TrashDays: daysOf(o.trashDays),
	}
}

func newCloudStart(a *App) *cobra.Command {
	var o cloudFlags
	cmd := &cobra.Command{
		Use: "start", Short: "Start the local cloud in the background",
		Long: `Starts the local cloud in the background and waits until it answers. One that
runs already stays as it is, and is an error if it has other options; unless it
is of an older stead: then this one takes its place, and the machines run on.`,
		Example: "  stead cloud start --listen 127.0.0.1:9000", Args: exactly(),
	}
	o.add(a, cmd)
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		o.chosen = cmd.Flags().Changed("machines")
		return a.cloudStart(ctx, o)
	})
}

func (a *App) cloudStart(ctx context.Context, o cloudFlags) error {
	dir, err := a.dataDir()
	if err != nil {
		return err
	}
	asked := o.start(dir, a.Version)
	if err := a.checkStart(asked); err != nil {
		return err
	}
	p := a.newProgress()
	defer p.close()
	var control *cloud.Control
	err = p.run("start local cloud", func() (err error) {
		control, err = cloud.Ensure(ctx, asked)
		return err
	})
	if err != nil {
		return fmt.Errorf("start the local cloud: %w", err)
	}
	info, err := control.Info(ctx)
	if err != nil {
		return fmt.Errorf("ask the local cloud: %w", err)
	}
	if !o.chosen {
		asked.Machines = a.Getenv("STEAD_MACHINES") // "auto" by default is no wish
	}
	if err := checkInForce(asked, info); err != nil {
		return err
	}
	return a.printStatus(ctx, control)
}

func newCloudStop(a *App) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "stop", Short: "Shut the local cloud's machines down, and it",
		Long: `Shuts the machines of the local cloud down cleanly, then ends it; also when it
has died and left its machines behind. What ran is started again when the cloud
starts again. With --keep-machines only the cloud ends; the machines run on.`,
		Example: "  stead cloud stop", Args: exactly(),
		Annotations: map[string]string{resumable: "yes"},
	}
	cmd.Flags().BoolVar(&keep, "keep-machines", false, "let the machines run on")
	return a.command(cmd, func(ctx context.Context, _ []string) error { return a.cloudStop(ctx, keep) })
}

func (a *App) cloudStop(ctx context.Context, keepMachines bool) error {
	dir, err := a.dataDir()
	if err != nil {
		return err
	}
	p := a.newProgress()
	defer p.close()
	err = p.run("stop local cloud", func() error {
		control, err := cloud.Connect(dir)
		switch {
		case err == nil:
			return control.Stop(ctx, !keepMachines)
		case !errors.Is(err, cloud.ErrNotRunning) || keepMachines:
			return ignoreNotRunning(err)
		}
		return cloud.StopWithoutDaemon(ctx, dir, a.log())
	})
	if err != nil {
		return fmt.Errorf("stop the local cloud: %w", err)
	}
	return a.print(cloudStatus{DataDir: dir}, func(w io.Writer) { fmt.Fprintln(w, "the local cloud is stopped") })
}

func ignoreNotRunning(err error) error {
	if errors.Is(err, cloud.ErrNotRunning) {
		return nil
	}
	return err
}

// cloudStatus is what "cloud status" prints.
type cloudStatus struct {
	Running   bool   `json:"running"`
	DataDir   string `json:"data_dir"`
	PID       int    `json:"pid,omitempty"`
	Version   string `json:"version,omitempty"`
	Endpoint  string `json:"endpoint,omitempty"`
	Account   string `json:"account,omitempty"`
	Region    string `json:"region,omitempty"`
	Machines  string `json:"machines,omitempty"` // kvm, tcg or none
	Note      string `json:"note,omitempty"`
	Started   string `json:"started,omitempty"` // RFC 3339
	Instances int    `json:"instances"`
	Volumes   int    `json:"volumes"`
	Snapshots int    `json:"snapshots"`
}

func newCloudStatus(a *App) *cobra.Command {
	return a.command(&cobra.Command{
		Use: "status", Short: "Tell whether the local cloud runs, and where",
		Long:    "Tells whether the local cloud runs, and where. It is never started by this.",
		Example: "  stead cloud status -o json | jq .running", Args: exactly(),
	}, func(ctx context.Context, _ []string) error {
		dir, err := a.dataDir()
		if err != nil {
			return err
		}
		control, err := cloud.Connect(dir)
		if errors.Is(err, cloud.ErrNotRunning) {
			return a.print(cloudStatus{DataDir: dir}, func(w io.Writer) {
				fmt.Fprintf(w, "the local cloud is not running\n  folder  %s\n", dir)
			})
		}
		if err != nil {
			return err
		}
		return a.printStatus(ctx, control)
	})
}

func (a *App) printStatus(ctx context.Context, control *cloud.Control) error {
	i, err := control.Info(ctx)
	if err != nil {
		return fmt.Errorf("ask the local cloud: %w", err)
	}
	s := cloudStatus{
		Running: true, DataDir: i.DataDir, PID: i.PID, Version: i.Version, Endpoint: i.Endpoint, Account: i.Account,
		Region: i.Region, Machines: i.Machines, Note: i.Note, Started: i.Started.UTC().Format("2006-01-02T15:04:05Z"),
		Instances: i.Instances, Volumes: i.Volumes, Snapshots: i.Snapshots,
	}
	return a.print(s, func(w io.Writer) {
		fmt.Fprintf(w, "the local cloud is running for %s (process %d, version %s)\n", a.age(i.Started), i.PID, i.Version)
		for _, f := range []fact{
			{"endpoint", i.Endpoint},
			{"region", i.Region},
			{"account", i.Account},
			{"folder", i.DataDir},
			{"machines", i.Machines},
			{"note", i.Note},
			{"holds", fmt.Sprintf("%d running instances, %d volumes, %d snapshots", i.Instances, i.Volumes, i.Snapshots)},
		} {
			if f.value != "" {
				fmt.Fprintf(w, "  %-8s  %s\n", f.name, f.value)
			}
		}
	})
}

func newCloudRun(a *App) *cobra.Command {
	var o cloudFlags
	cmd := &cobra.Command{
		Use: "run", Short: "Run the local cloud in the foreground",
		Long: `Runs the local cloud in the foreground, with its log on stderr, until it gets
SIGTERM or Ctrl-C. The machines run on and are adopted by the next one. Started
by root, it gives up root and runs as the user stead.`,
		Example: "  stead cloud run --listen 127.0.0.1:9000 --data-dir /srv/stead --machines none", Args: exactly(),
	}
	o.add(a, cmd)
	cmd.Flags().BoolVar(&o.stopOnly, "stop-only", false, "shut down the machines that a dead one left, and end")
	_ = cmd.Flags().MarkHidden("stop-only") // it exists
	return a.command(cmd, func(ctx context.Context, _ []string) error { return a.cloudRun(ctx, o) })
}

func (a *App) cloudRun(ctx context.Context, o cloudFlags) error {
	dir, err := a.dataDir()
	if err != nil {
		return err
	}
	asked := o.start(dir, a.Version)
	if err := a.checkStart(asked); err != nil {
		return err
	}
	level := slog.LevelInfo
	if a.flags.debug {
		level = slog.LevelDebug
	}
	err = cloud.RunUnprivileged(ctx, cloud.Config{
		Listen: o.listen, DataDir: dir, Machines: o.machines, Account: o.account, Accel: o.accel, Egress: o.egress, StopOnly: o.stopOnly,
		TrashDays: asked.TrashDays,
		Version:   a.Version, Log: slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: level})),
	})
	var ended *cloud.ExitError
	switch {
	case errors.As(err, &ended):
		return exitError(ended.Code)
	case errors.Is(err, cloud.ErrInUse):
		return &server.Error{Code: server.KindExists, Op: "run", Resource: "local cloud", Err: err, Remedy: "stead cloud status"}
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("run the local cloud: %w", err)
	}
	return nil
}

func newCloudLogs(a *App) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "logs", Short: "Print the local cloud's log",
		Example: "  stead cloud logs -f", Args: exactly(),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing what is added, until Ctrl-C")
	return a.command(cmd, func(ctx context.Context, _ []string) error {
		dir, err := a.dataDir()
		if err != nil {
			return err
		}
		return cloud.Logs(ctx, dir, a.Stdout, follow)
	})
}
