package machine

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

var errTODO = errors.New("not implemented")

type Config struct {
	QEMU         string
	Accel        Accel
	StartTimeout time.Duration
	FirstOutput  time.Duration
}
type Runner struct{}
type Machine struct{}
type Instant struct{}
type Source struct{}

func NewRunner(cfg Config, log *slog.Logger) *Runner                                  { return &Runner{} }
func (r *Runner) Start(ctx context.Context, spec Spec) (*Machine, error)              { return nil, errTODO }
func (r *Runner) Open(ctx context.Context, dir string) (*Machine, error)              { return nil, errTODO }
func (m *Machine) Status(ctx context.Context) (Status, error)                         { return Status{}, errTODO }
func (m *Machine) Done() <-chan struct{}                                              { return nil }
func (m *Machine) Events() <-chan Event                                               { return nil }
func (m *Machine) Shutdown(ctx context.Context, grace time.Duration) error            { return errTODO }
func (m *Machine) Kill(ctx context.Context) error                                     { return errTODO }
func (m *Machine) Reset(ctx context.Context) error                                    { return errTODO }
func (m *Machine) Continue(ctx context.Context) error                                 { return errTODO }
func (m *Machine) Attach(ctx context.Context, d Disk) error                           { return errTODO }
func (m *Machine) Detach(ctx context.Context, volumeID string, t time.Duration) error { return errTODO }
func (m *Machine) Disks(ctx context.Context) ([]string, error)                        { return nil, errTODO }
func (m *Machine) ConsoleLog() string                                                 { return "" }
func (m *Machine) NetSocket() string                                                  { return "" }
func (m *Machine) PID() int                                                           { return 0 }
func (m *Machine) Accel() Accel                                                       { return "" }
func (m *Machine) Snapshot(ctx context.Context, name string, volumeIDs []string) (*Instant, error) {
	return nil, errTODO
}
func (i *Instant) Source(volumeID string) (*Source, error)         { return nil, errTODO }
func (i *Instant) Close(ctx context.Context) error                 { return errTODO }
func (s *Source) Size() int64                                      { return 0 }
func (s *Source) ReadAt(p []byte, off int64) (int, error)          { return 0, errTODO }
func (s *Source) NextData(off int64) (start, end int64, err error) { return 0, 0, errTODO }
func (s *Source) Close() error                                     { return nil }
func Probe(limit time.Duration) error                              { return errTODO }
