package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/steadcloud/stead/internal/snapshot"
	"github.com/steadcloud/stead/internal/volume"
)

// engineCommand is the first argument that makes this program one run of the
// snapshot engine, so that its start, its CPU seconds and its memory are as much
// its own as those of restic's process.
const engineCommand = "engine"

// engineJob is what such a run is told on its standard input.
type engineJob struct {
	Do      string // create, restore, check or limit
	Store   string // the snapshot store's folder
	Volumes string // the volumes' folder
	Volume  string // to read, or to make
	ID      string // of the snapshot
	Base    string // the snapshot that a create builds on, if any
	Changed []int64
}

// engineResult is what it says on its standard output.
type engineResult struct {
	Read    int64    // bytes read from the volume
	Stored  int64    // bytes added to the store
	Unpack  float64  // seconds: see limit
	Direct  float64  // seconds: see limit
	Problem []string // what a check found
}

// runEngine does one job as the daemon would, with its defaults.
func runEngine(ctx context.Context, in io.Reader, out io.Writer) error {
	var j engineJob
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return fmt.Errorf("the job: %w", err)
	}
	var r engineResult
	var err error
	if j.Do == "limit" {
		r.Unpack, r.Direct, err = measureLimits(ctx, filepath.Join(j.Store, "packs"))
	} else {
		err = j.run(ctx, &r)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

func (j engineJob) run(ctx context.Context, r *engineResult) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	e, err := snapshot.OpenDir(ctx, j.Store, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	if j.Do == "check" {
		report, err := e.Check(ctx, true, nil)
		for _, p := range report.Problems {
			r.Problem = append(r.Problem, p.Err.Error())
		}
		return err
	}
	volumes, err := volume.Open(j.Volumes, log)
	if err != nil {
		return err
	}
	if j.Do == "create" {
		return j.create(ctx, e, volumes, r)
	}
	info, err := e.Info(ctx, j.ID)
	if err != nil {
		return err
	}
	return volumes.Fill(ctx, j.Volume, info.VolumeSize, func(ctx context.Context, w volume.Sink) error {
		return e.Restore(ctx, j.ID, w, nil)
	})
}

func (j engineJob) create(ctx context.Context, e *snapshot.Engine, volumes *volume.Dir, r *engineResult) error {
	src, err := volumes.Reader(j.Volume)
	if err != nil {
		return err
	}
	counted := &countingSource{Source: src}
	var since *snapshot.Since
	if j.Base != "" {
		changed := make(map[int64]bool, len(j.Changed))
		for _, i := range j.Changed {
			changed[i] = true
		}
		since = &snapshot.Since{Base: j.Base, Changed: func(i int64) bool { return changed[i] }}
	}
	info, err := e.Create(ctx, j.ID, counted, since, nil)
	r.Read, r.Stored = counted.read.Load(), info.StoredBytes
	return errors.Join(err, src.Close())
}

// countingSource counts what is read of a volume.
type countingSource struct {
	snapshot.Source
	read atomic.Int64
}

// ReadAt implements snapshot.Source.
func (s *countingSource) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Source.ReadAt(p, off)
	s.read.Add(int64(n))
	return n, err
}

// engine runs a job in a process of its own.
func (s *snapBench) engine(ctx context.Context, j engineJob) (engineResult, usage, error) {
	var r engineResult
	self, err := os.Executable()
	if err != nil {
		return r, usage{}, err
	}
	raw, err := json.Marshal(j)
	if err != nil {
		return r, usage{}, err
	}
	c := command{args: []string{self, engineCommand}, in: raw}
	out, used, err := c.run(ctx)
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(out)).Decode(&r)
	}
	if err == nil && len(r.Problem) > 0 {
		err = fmt.Errorf("a store that was just written is damaged: %v", r.Problem)
	}
	return r, used, err
}
