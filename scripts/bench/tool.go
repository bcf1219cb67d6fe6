package main

import (
	"context"
	"errors"
	"time"
)

const aboutTool = "Wall time of the whole command, from start to exit. `stead ls` is with one server on a " +
	"local cloud that runs already; the API's own time is in it and not subtracted."

// tool measures how soon the command line answers.
func tool(ctx context.Context, b *bench) (rows []row, err error) {
	s, err := b.newScratch("none")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end(ctx)) }()
	client, _, err := s.started(ctx)
	if err != nil {
		return nil, err
	}
	image, err := registerImage(ctx, client)
	if err != nil {
		return nil, err
	}
	if _, _, err := s.run(ctx, "create", "web", "--image", image, "--data", "1", "--wait", "none"); err != nil {
		return nil, err
	}
	help := row{what: "`stead --help`", unit: milliseconds, target: atMost(20)}
	ls := row{what: "`stead ls`, one server", unit: milliseconds, target: atMost(50)}
	for range b.repeats(31) {
		for r, args := range map[*row][]string{&help: {"--help"}, &ls: {"ls"}} {
			_, took, err := s.run(ctx, args...)
			if err != nil {
				return nil, err
			}
			r.ours = append(r.ours, float64(took)/float64(time.Millisecond))
		}
	}
	return []row{help, ls}, nil
}
