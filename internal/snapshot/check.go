package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Report is what Check found.
type Report struct {
	Snapshots int   // with a readable manifest
	Blocks    int   // distinct blocks that they name
	BytesRead int64 // plain bytes verified
	Problems  []Problem
}

// Problem is one snapshot's damage. A block shared by several is reported for
// each.
type Problem struct {
	Snapshot string
	Block    BlockID // empty where the manifest is unreadable
	Err      error
}

// Check verifies that every manifest is readable and that every block that it
// names is there; with readData also that each block holds what it should.
// Damage is in the report. The error is for a check that couldn't be done.
func (e *Engine) Check(ctx context.Context, readData bool) (Report, error) {
	var report Report
	names, err := e.store.Manifests(ctx)
	if err != nil {
		return report, fmt.Errorf("check snapshots: %w", err)
	}
	var blocks []entry
	users := make(map[BlockID][]string)
	for _, name := range names {
		m, err := e.load(ctx, name)
		switch {
		case errors.Is(err, ErrNotFound): // deleted since
			continue
		case ctx.Err() != nil:
			return report, fmt.Errorf("check snapshots: %w", ctx.Err())
		case err != nil:
			report.Problems = append(report.Problems, Problem{Snapshot: name, Err: err})
			continue
		}
		report.Snapshots++
		for _, b := range m.blocks {
			if users[b.id] == nil {
				blocks = append(blocks, b)
			}
			if u := users[b.id]; len(u) == 0 || u[len(u)-1] != name {
				users[b.id] = append(u, name)
			}
		}
	}
	report.Blocks = len(blocks)

	var mu sync.Mutex // guards report
	err = e.each(ctx, blocks, func(ctx context.Context, b entry, buf []byte) error {
		n, damage := e.verify(ctx, b, buf, readData)
		if err := ctx.Err(); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		report.BytesRead += n
		if damage == nil {
			return nil
		}
		for _, name := range users[b.id] {
			report.Problems = append(report.Problems, Problem{Snapshot: name, Block: b.id, Err: damage})
		}
		return nil
	})
	if err != nil {
		return report, fmt.Errorf("check snapshots: %w", err)
	}
	slices.SortFunc(report.Problems, func(a, b Problem) int {
		return slices.Compare([]string{a.Snapshot, string(a.Block)}, []string{b.Snapshot, string(b.Block)})
	})
	return report, nil
}

func (e *Engine) verify(ctx context.Context, b entry, buf []byte, readData bool) (int64, error) {
	if readData {
		data, err := e.fetch(ctx, b, buf)
		return int64(len(data)), err
	}
	_, err := e.store.StatBlock(ctx, b.id)
	if errors.Is(err, ErrNotFound) {
		err = &CorruptError{Block: b.id, Reason: "it is missing"}
	}
	return 0, err
}
