package cloud

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
)

// storeEvent is one line of the answer to work on the snapshot store: how far it
// is, or its result.
type storeEvent struct {
	Done   int64           `json:"done,omitempty"`
	Total  int64           `json:"total,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
	Code   string          `json:"code,omitempty"` // EC2's for the error, if it has one
}

// progressEvery bounds how many lines tell of progress.
const progressEvery = 200 * time.Millisecond

// storeWork serves work on the snapshot store. It ends with its client, and with
// the daemon.
func (d *daemon) storeWork(do func(ctx context.Context, r *http.Request, progress snapshot.Progress) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		d.builds.Add(1) // what it reads is closed after these
		defer d.builds.Done()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(d.life, cancel)()
		w.Header().Set("Content-Type", "application/jsonl")
		enc, flush := json.NewEncoder(w), http.NewResponseController(w)
		send := func(e storeEvent) {
			if enc.Encode(e) == nil {
				_ = flush.Flush()
			}
		}
		result, err := do(ctx, r, newThrottle(progressEvery, func(done, total int64) { send(storeEvent{Done: done, Total: total}) }))
		var raw []byte
		if err == nil {
			raw, err = json.Marshal(result)
		}
		if err != nil {
			f := failed(err)
			send(storeEvent{Error: f.Error, Code: f.Code})
			return
		}
		send(storeEvent{Result: raw})
	}
}

func (d *daemon) serveStore(mux *http.ServeMux) {
	c := d.cloud
	mux.HandleFunc("POST /store/check", d.storeWork(func(ctx context.Context, r *http.Request, p snapshot.Progress) (any, error) {
		return c.CheckStore(ctx, r.URL.Query().Get("data") == "true", p)
	}))
	mux.HandleFunc("POST /store/repair", d.storeWork(func(ctx context.Context, _ *http.Request, p snapshot.Progress) (any, error) {
		return c.RepairStore(ctx, p)
	}))
	mux.HandleFunc("GET /store/stats", d.storeWork(func(ctx context.Context, _ *http.Request, _ snapshot.Progress) (any, error) {
		return c.StoreStats(ctx)
	}))
	mux.HandleFunc("GET /store/trash", d.storeWork(func(ctx context.Context, _ *http.Request, _ snapshot.Progress) (any, error) {
		return c.Trashed(ctx)
	}))
	mux.HandleFunc("DELETE /store/trash", d.storeWork(func(ctx context.Context, _ *http.Request, _ snapshot.Progress) (any, error) {
		return c.EmptyTrash(ctx)
	}))
	mux.HandleFunc("POST /store/trash/{id}", d.storeWork(func(ctx context.Context, r *http.Request, _ snapshot.Progress) (any, error) {
		snap, err := c.Undelete(ctx, r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		return TrashedSnapshot{
			Snapshot: snap.ID, Region: snap.Region, Volume: snap.VolumeID, SizeGiB: snap.VolumeSize, Description: snap.Description, Tags: snap.Tags,
		}, nil
	}))
}

// CheckStore has the daemon verify its snapshot store; with readData it reads
// all that is in it.
func (c *Control) CheckStore(ctx context.Context, readData bool, progress snapshot.Progress) (*StoreReport, error) {
	report := new(StoreReport)
	return report, c.store(ctx, http.MethodPost, "/store/check", url.Values{"data": {strconv.FormatBool(readData)}}, report, progress)
}

// RepairStore has the daemon make the index of its snapshot store again, and
// read all that is in it.
func (c *Control) RepairStore(ctx context.Context, progress snapshot.Progress) (*StoreReport, error) {
	report := new(StoreReport)
	return report, c.store(ctx, http.MethodPost, "/store/repair", nil, report, progress)
}

// StoreStats asks what the snapshot store holds.
func (c *Control) StoreStats(ctx context.Context) (*StoreStats, error) {
	stats := new(StoreStats)
	return stats, c.store(ctx, http.MethodGet, "/store/stats", nil, stats, nil)
}

// Trashed lists the deleted snapshots that can be had back.
func (c *Control) Trashed(ctx context.Context) (list []TrashedSnapshot, err error) {
	err = c.store(ctx, http.MethodGet, "/store/trash", nil, &list, nil)
	return list, err
}

// EmptyTrash deletes them for good, and returns the bytes freed.
func (c *Control) EmptyTrash(ctx context.Context) (freed int64, err error) {
	err = c.store(ctx, http.MethodDelete, "/store/trash", nil, &freed, nil)
	return freed, err
}

// Undelete brings a deleted snapshot back.
func (c *Control) Undelete(ctx context.Context, id string) (*TrashedSnapshot, error) {
	snap := new(TrashedSnapshot)
	return snap, c.store(ctx, http.MethodPost, "/store/trash/"+url.PathEscape(id), nil, snap, nil)
}

// store gives an order about the snapshot store and follows it to its result.
func (c *Control) store(ctx context.Context, method, path string, query url.Values, into any, progress snapshot.Progress) error {
	resp, err := c.do(ctx, method, path, query)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("the local cloud went away: %w", err)
		}
		var e storeEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		switch {
		case e.Code != "":
			return &RefusedError{Code: e.Code, Message: e.Error}
		case e.Error != "":
			return errors.New(e.Error)
		case e.Result != nil:
			return json.Unmarshal(e.Result, into)
		case progress != nil:
			progress(e.Done, e.Total)
		}
	}
}
