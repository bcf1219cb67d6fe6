package e2e

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// moment is when a blow falls, as seen from the call that it falls on.
type moment int

const (
	duringCall moment = iota // the daemon is at work on the call
	afterCall                // the daemon is done, the client doesn't know
	atAnswer                 // the answer goes out all the same
)

func (m moment) String() string { return [...]string{"during", "after", "at the answer to"}[m] }

// gate stands in front of the daemon and counts the calls that change
// something. At one of them the blow falls; what comes after is cut off until
// the gate is set anew.
type gate struct {
	rig    *rig
	server *httptest.Server

	mu      sync.Mutex
	target  *url.URL
	at      int    // which call, from 1; 0: none
	action  string // or the first of this name
	when    moment
	blow    func()
	delay   time.Duration // of a blow during the call
	fallen  bool
	actions []string
}

// newGate opens a gate to the rig's cloud, as a context of the name "gate".
func newGate(r *rig) *gate {
	g := &gate{rig: r}
	g.server = httptest.NewServer(g)
	r.t.Cleanup(g.server.Close)
	r.stead("context", "create", "gate", "--endpoint-url", g.server.URL, "--region", r.access().Region)
	return g
}

// set arms the gate for one run of a command.
func (g *gate) set(at int, action string, when moment, delay time.Duration, blow func()) access {
	a := g.rig.access()
	target, err := url.Parse(a.URL)
	if err != nil {
		g.rig.t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.target, g.at, g.action, g.when, g.delay, g.blow = target, at, action, when, delay, blow
	g.fallen, g.actions = false, nil
	return a
}

func (g *gate) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	falls, through := g.count(body)
	if !through {
		panic(http.ErrAbortHandler) // what a client of a dead daemon sees
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	if !falls {
		g.forward(w, req)
		return
	}
	switch g.when {
	case duringCall:
		done := make(chan struct{})
		go func() { defer close(done); time.Sleep(g.delay); g.blow() }()
		g.forward(httptest.NewRecorder(), req)
		<-done
	case afterCall:
		g.forward(httptest.NewRecorder(), req)
		g.blow()
	case atAnswer:
		g.blow()
		g.forward(w, req)
		return
	}
	panic(http.ErrAbortHandler)
}

// count tells whether the blow falls on this call, and whether the call may
// go through.
func (g *gate) count(body []byte) (falls, through bool) {
	form, _ := url.ParseQuery(string(body)) // JSON has no Action
	action := form.Get("Action")
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fallen && g.when != atAnswer {
		return false, false
	}
	if action == "" || strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "Get") {
		return false, true
	}
	g.actions = append(g.actions, action)
	falls = !g.fallen && (len(g.actions) == g.at || g.action != "" && g.action == action)
	g.fallen = g.fallen || falls
	return falls, true
}

// forward sends a call on as it came: its signature covers the host.
func (g *gate) forward(w http.ResponseWriter, req *http.Request) {
	g.mu.Lock()
	target := g.target
	g.mu.Unlock()
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {}, // the daemon died under it
		Transport:    &http.Transport{DisableKeepAlives: true},
	}
	proxy.ServeHTTP(w, req.WithContext(context.WithoutCancel(req.Context())))
}

// run runs stead through the gate.
func (g *gate) run(a access, args []string, onStart func(*os.Process)) result {
	g.rig.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := g.rig.command(ctx, []string{"STEAD_CONTEXT=gate", "AWS_ACCESS_KEY_ID=" + a.ID, "AWS_SECRET_ACCESS_KEY=" + a.Secret}, "stead", args...)
	return g.rig.finish(cmd, onStart)
}
