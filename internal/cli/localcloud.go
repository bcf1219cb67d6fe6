package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/steadcloud/stead/internal/cloud"
	"github.com/steadcloud/stead/internal/server"
)

// localCloud is the running cloud of this machine.
type localCloud struct {
	control *cloud.Control
	info    cloud.Info
	keys    cloud.Credentials
}

// config is the SDK's configuration for it. The keys come from its folder,
// never from AWS_* variables.
func (l *localCloud) config() aws.Config {
	return aws.Config{
		Region:       l.info.Region,
		BaseEndpoint: &l.info.Endpoint,
		Credentials:  staticKeys(l.keys.AccessKeyID, l.keys.SecretAccessKey, ""),
	}
}

// openLocal connects to the local cloud. Unless start is false it is started
// when it doesn't run, and replaced when it is older than this program.
func (a *App) openLocal(ctx context.Context, p *progress, start bool) (*localCloud, error) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, err
	}
	if err := a.checkStart(a.startOptions(dir)); err != nil {
		return nil, err
	}
	control, err := cloud.Connect(dir)
	if err != nil && !errors.Is(err, cloud.ErrNotRunning) {
		return nil, fmt.Errorf("connect to the local cloud: %w", err)
	}
	if err == nil {
		info, err := control.Info(ctx)
		if err == nil && info.Version == a.Version {
			return newLocalCloud(ctx, control)
		}
	}
	if !start {
		return nil, notRunning()
	}
	err = p.run("start local cloud", func() error {
		control, err = cloud.Ensure(ctx, a.startOptions(dir))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start the local cloud: %w", err)
	}
	return newLocalCloud(ctx, control)
}

func newLocalCloud(ctx context.Context, control *cloud.Control) (*localCloud, error) {
	info, err := control.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the local cloud: %w", err)
	}
	keys, err := control.Credentials(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the local cloud for its keys: %w", err)
	}
	return &localCloud{control: control, info: info, keys: keys}, nil
}

// startOptions are those of a daemon that starts by itself; the environment
// stands in for the flags of "stead cloud start".
func (a *App) startOptions(dir string) cloud.StartOptions {
	return cloud.StartOptions{
		DataDir:   dir,
		Version:   a.Version,
		Listen:    a.Getenv("STEAD_LISTEN"), // "" is the cloud's own choice
		Machines:  a.envOrAuto("STEAD_MACHINES"),
		Accel:     a.envOrAuto("STEAD_ACCEL"),
		Account:   a.Getenv("STEAD_ACCOUNT_ID"),
		Egress:    a.egress(),
		TrashDays: daysOf(a.Getenv("STEAD_TRASH_DAYS")),
	}
}

func (a *App) envOrAuto(name string) string {
	if v := a.Getenv(name); v != "" {
		return v
	}
	return "auto"
}

// egress tells whether machines of the local cloud reach beyond it.
func (a *App) egress() bool { return a.Getenv("STEAD_EGRESS") != "off" }

func notRunning() error {
	return &server.Error{
		Code: server.KindFailed, Op: "connect to", Resource: "local cloud", Err: cloud.ErrNotRunning,
		Remedy: "stead cloud start",
	}
}
