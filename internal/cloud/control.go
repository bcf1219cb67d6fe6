package cloud

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

// ErrNotRunning says that no daemon answers on the data folder.
var ErrNotRunning = errors.New("the local cloud is not running")

// errOtherDaemon says that an order was for another daemon than this one.
var errOtherDaemon = errors.New("another daemon has taken over")

// Info is what a daemon says of itself.
type Info struct {
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	Built     time.Time `json:"built"` // when its executable was
	Endpoint  string    `json:"endpoint"`
	DataDir   string    `json:"dataDir"`
	Account   string    `json:"account"`
	Region    string    `json:"region"` // where tools look by default
	Machines  string    `json:"machines"`
	TrashDays int       `json:"trashDays"` // that a deleted snapshot can be had back
	Note      string    `json:"note,omitempty"`
	Started   time.Time `json:"started"`
	Instances int       `json:"instances"` // that run
	Volumes   int       `json:"volumes"`
	Snapshots int       `json:"snapshots"`
}

// buildEvent is one line of the answer to an image build.
type buildEvent struct {
	Step    string `json:"step,omitempty"`
	Done    int64  `json:"done,omitempty"`
	Total   int64  `json:"total,omitempty"`
	ImageID string `json:"imageId,omitempty"`
	Error   string `json:"error,omitempty"`
	Code    string `json:"code,omitempty"` // EC2's for the error, if it has one
}

// failed is the line that ends an answer with an error.
func failed(err error) buildEvent {
	if e := (*apiError)(nil); errors.As(err, &e) {
		return buildEvent{Error: e.Message, Code: e.Code}
	}
	return buildEvent{Error: err.Error()}
}

// controlHandler serves what is no part of EC2's API: the keys, image builds,
// the log, stopping. Who can open the socket owns the folder.
func (d *daemon) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) { d.reply(w, d.info()) })
	mux.HandleFunc("GET /credentials", func(w http.ResponseWriter, _ *http.Request) { d.reply(w, d.cloud.keys) })
	mux.HandleFunc("POST /images/{name}", d.buildImage)
	mux.HandleFunc("POST /imports", d.importImage)
	mux.HandleFunc("POST /stop", d.obeyStop)
	mux.HandleFunc("GET /console/{region}/{id}", d.console)
	mux.HandleFunc("POST /spot/{region}/{id}", d.interrupt)
	d.serveStore(mux)
	return mux
}

// obeyStop begins to stop the daemon and answers who it is. An order that names
// a process is for that one alone.
func (d *daemon) obeyStop(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if pid := query.Get("pid"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		http.Error(w, "this is process "+strconv.Itoa(os.Getpid()), http.StatusConflict)
		return
	}
	d.reply(w, d.info())
	select {
	case d.stop <- query.Get("machines") == "true":
	default: // already stopping
	}
}

func (d *daemon) reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		d.cfg.Log.Debug("control client went away", "err", err)
	}
}

func (d *daemon) info() Info {
	i := Info{
		PID: os.Getpid(), Version: d.cfg.Version, Built: d.built, Endpoint: d.endpoint(), DataDir: d.cfg.DataDir, Account: d.cfg.Account,
		Region: DefaultRegion, Machines: d.cloud.hyper.accel(), TrashDays: trashDays(d.cloud.trash), Note: d.cloud.hyper.note(), Started: d.started,
	}
	err := d.cloud.db.View(func(tx *state.Tx) error {
		insts, err := state.All[state.Instance](tx)
		if err != nil {
			return err
		}
		for _, inst := range insts {
			if inst.State == state.Running {
				i.Instances++
			}
		}
		if i.Volumes, err = state.Count[state.Volume](tx); err != nil {
			return err
		}
		i.Snapshots, err = state.Count[state.Snapshot](tx)
		return err
	})
	if err != nil {
		i.Note = err.Error()
	}
	return i
}

// eventSender writes the lines of an answer as they come.
func eventSender(w http.ResponseWriter) func(buildEvent) {
	w.Header().Set("Content-Type", "application/jsonl")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	return func(e buildEvent) {
		if enc.Encode(e) == nil {
			_ = flush.Flush()
		}
	}
}

// audience tells each build whether anybody waits for it still.
type audience struct {
	mu     sync.Mutex
	builds map[string]*attended
}

type attended struct {
	clients int
	ctx     context.Context
	cancel  context.CancelFunc
}

// join takes part in a build by its name, and gives the context that ends when
// all have left, or with life. leave may be called more than once.
func (a *audience) join(life context.Context, name string) (ctx context.Context, leave func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.builds[name]
	if b == nil {
		b = &attended{}
		b.ctx, b.cancel = context.WithCancel(life)
		if a.builds == nil {
			a.builds = map[string]*attended{}
		}
		a.builds[name] = b
	}
	b.clients++
	return b.ctx, sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if b.clients--; b.clients == 0 {
			b.cancel()
			delete(a.builds, name)
		}
	})
}

func (d *daemon) buildImage(w http.ResponseWriter, r *http.Request) {
	send := eventSender(w)
	d.builds.Add(1)
	defer d.builds.Done()
	name := r.PathValue("name")
	id, err := d.attendBuild(r.Context(), name, send)
	// It joined a build that was being given up just then.
	for errors.Is(err, context.Canceled) && r.Context().Err() == nil && d.life.Err() == nil {
		id, err = d.attendBuild(r.Context(), name, send)
	}
	if err != nil {
		send(failed(err))
		return
	}
	send(buildEvent{ImageID: id})
}

// attendBuild builds an image, or waits for the build of it that goes on. A build
// ends with its last client, and with the daemon.
func (d *daemon) attendBuild(client context.Context, name string, send func(buildEvent)) (string, error) {
	ctx, leave := d.audience.join(d.life, name)
	defer leave()
	defer context.AfterFunc(client, leave)()
	id, err, _ := d.flights.Do(name, func() (any, error) {
		return d.cloud.BuildImage(ctx, state.Scope{Account: d.cfg.Account, Region: DefaultRegion}, name,
			func(step string, done, total int64) { send(buildEvent{Step: step, Done: done, Total: total}) })
	})
	if err != nil {
		return "", err
	}
	return id.(string), nil
}

// Control gives a daemon orders that are no part of EC2's API.
type Control struct {
	dir  Dir
	http *http.Client
}

// Connect finds the daemon of a data folder, or gives ErrNotRunning.
func Connect(dataDir string) (*Control, error) {
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, err
	}
	dir := Dir(abs)
	c := &Control{dir: dir, http: &http.Client{Transport: &http.Transport{
		ExpectContinueTimeout: 10 * time.Second, // see ImportImage
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", dir.ControlSocket())
		},
	}}}
	conn, err := net.DialTimeout("unix", dir.ControlSocket(), time.Second)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("control socket of %s: %w", dir, err)
		}
		return nil, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	return c, conn.Close()
}

func (c *Control) do(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "stead", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	return c.send(req)
}

// send gives the answer to an order, or why it was refused.
func (c *Control) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", c.dir, ErrNotRunning)
		}
		return nil, fmt.Errorf("local cloud: %w", err)
	}
	if resp.StatusCode == http.StatusConflict {
		return nil, errors.Join(errOtherDaemon, resp.Body.Close())
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = resp.Body.Close() }() // read to its end or given up
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return nil, fmt.Errorf("local cloud: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return resp, nil
}

func (c *Control) get(ctx context.Context, path string, into any) error {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	return json.NewDecoder(resp.Body).Decode(into)
}

// Info asks the daemon about itself.
func (c *Control) Info(ctx context.Context) (Info, error) {
	var i Info
	err := c.get(ctx, "/info", &i)
	return i, err
}

// Credentials gives the key that signs requests to the daemon.
func (c *Control) Credentials(ctx context.Context) (Credentials, error) {
	var k Credentials
	err := c.get(ctx, "/credentials", &k)
	return k, err
}

// BuildImage builds an image by its name (tiny, debian, debian:bookworm) and
// gives its ID.
func (c *Control) BuildImage(ctx context.Context, name string, progress func(step string, done, total int64)) (string, error) {
	resp, err := c.do(ctx, http.MethodPost, "/images/"+url.PathEscape(name), nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	id, err := readBuild(resp.Body, progress)
	if err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	return id, nil
}

// readBuild follows the making of an image to its end, and gives its ID.
func readBuild(r io.Reader, progress func(step string, done, total int64)) (string, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var e buildEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return "", err
		}
		switch {
		case e.Code != "":
			return "", &RefusedError{Code: e.Code, Message: e.Error}
		case e.Error != "":
			return "", errors.New(e.Error)
		case e.ImageID != "":
			return e.ImageID, nil
		case progress != nil:
			progress(e.Step, e.Done, e.Total)
		}
	}
	return "", fmt.Errorf("the local cloud went away: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

// Logs copies the daemon's log to w; following, until ctx ends.
func (c *Control) Logs(ctx context.Context, w io.Writer, follow bool) error {
	return Logs(ctx, string(c.dir), w, follow)
}

// Stop ends the daemon and waits until it is gone; with machines, they are
// shut down cleanly first.
func (c *Control) Stop(ctx context.Context, machines bool) error { return c.stop(ctx, machines, 0) }

// stop is Stop for the daemon with a process ID, if that is not 0:
// errOtherDaemon where it is not the one that answers.
func (c *Control) stop(ctx context.Context, machines bool, pid int) error {
	query := url.Values{"machines": {strconv.FormatBool(machines)}}
	if pid != 0 {
		query.Set("pid", strconv.Itoa(pid))
	}
	resp, err := c.do(ctx, http.MethodPost, "/stop", query)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	var who Info
	if err := json.NewDecoder(resp.Body).Decode(&who); err != nil {
		return fmt.Errorf("stop the local cloud: %w", err)
	}
	return waitGone(ctx, c.dir, who.PID)
}

// wentAway says that a daemon ended while it was spoken to.
func wentAway(err error) bool {
	for _, e := range []error{ErrNotRunning, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// waitGone returns when the daemon with a process ID has left the folder: no
// daemon has it, or another one answers.
func waitGone(ctx context.Context, dir Dir, pid int) error {
	for {
		unlock, err := lockFolder(dir)
		if err == nil {
			unlock()
			return nil
		}
		if !errors.Is(err, ErrInUse) {
			return err
		}
		if c, err := Connect(string(dir)); err == nil {
			if info, err := c.Info(ctx); err == nil && info.PID != pid {
				return nil
			}
			c.http.CloseIdleConnections()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the daemon of %s to end: %w", dir, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
