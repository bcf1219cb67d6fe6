package cli

import (
	"context"
	"time"

	"github.com/steadcloud/stead/internal/cli/tarcopy"
	"github.com/steadcloud/stead/internal/server"
)

// tapeCleanup bounds the removal of what reading a snapshot needed.
const tapeCleanup = 5 * time.Minute

// fetchTape copies from a snapshot set. What it takes to read that is removed
// afterwards, also when the copy was interrupted.
func (c *copier) fetchTape(ctx context.Context, p place, target string) (stats tarcopy.Stats, err error) {
	if c.session.withoutMachines() {
		return stats, noMachines("read a snapshot of", "server "+p.server, "stead cloud stop, then stead cloud start --machines auto")
	}
	key, err := c.app.ownPublicKey()
	if err != nil {
		return stats, err
	}
	o := server.TapeOptions{HelperOptions: server.HelperOptions{Image: c.options.image, Key: key}, Set: p.set, Path: p.path}
	if at, ok := parseMoment(p.set); ok {
		o.Set, o.At = "", at
	}
	defer func() {
		if closeErr := c.closeTape(ctx, p.server); err == nil {
			err = closeErr
		}
	}()
	tape, err := c.session.servers.OpenTape(ctx, p.server, o)
	if err != nil {
		return stats, err
	}
	t, err := c.app.targetOf(ctx, c.session, tape.Helper, sshOptions{})
	if err != nil {
		return stats, err
	}
	defer c.app.forgetHelper(t.Alias)
	// The files there belong to users that the helper doesn't know.
	root := *c
	root.options.root = true
	return root.fetch(ctx, t, p, tape.Root, target)
}

// closeTape goes on where the copy was interrupted: else a machine would be
// left that costs money.
func (c *copier) closeTape(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tapeCleanup)
	defer cancel()
	return c.session.servers.CloseTape(ctx, name)
}

// parseMoment reads a time as people write it. One without a zone is UTC, as
// sets are named.
func parseMoment(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
