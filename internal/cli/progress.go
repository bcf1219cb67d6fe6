package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/server"
)

// progress shows steps on stderr: on a terminal one live line each, elsewhere
// a plain line for every step that ended and a sign of life for long ones.
// With -q, or with -o json or yaml away from a terminal, it shows warnings alone.
type progress struct {
	w     io.Writer
	live  bool
	quiet bool
	now   func() time.Time

	mu      sync.Mutex // guards what follows: a ticker redraws the live line
	step    string     // the line shown, "" between steps
	detail  string
	since   time.Time
	said    time.Time // when the last sign of life was printed
	frame   int
	ticking chan struct{}
}

const (
	redrawEvery = 120 * time.Millisecond
	sayEvery    = 10 * time.Second
	clearLine   = "\r\x1b[K"
)

var frames = [...]string{"|", "/", "-", `\`}

func (a *App) newProgress() *progress {
	live := isTerminal(a.Stderr) && a.Getenv("TERM") != "dumb" && !a.flags.debug
	// A dry run does none of the steps, so it tells of none.
	quiet := a.flags.quiet || a.plan != nil
	a.shown = &progress{
		w: a.Stderr, now: a.Now, live: live && !quiet,
		quiet: quiet || a.flags.output.forPrograms() && !live,
	}
	return a.shown
}

// explain prints a line of its own above the live one.
func (p *progress) explain(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(line)
}

// event shows e; it is a server.Config's Notify.
func (p *progress) event(e server.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	step := strings.TrimSpace(e.Step + " " + e.Resource)
	switch e.State {
	case server.StepStarted:
		p.begin(step, e.Detail)
	case server.StepWaiting:
		if p.step != step {
			p.begin(step, e.Detail)
		}
		p.detail = e.Detail
		p.signOfLife()
	case server.StepDone:
		p.end("ok", step, e)
	case server.StepFailed:
		e.Detail = "" // the error itself is printed once, at the end
		p.end("failed", step, e)
	case server.StepWarning:
		p.line("warning: " + joined(step, e.Detail))
	}
}

// build returns the progress function of an image build.
func (p *progress) build(name string) func(step string, done, total int64) {
	return func(step string, done, total int64) {
		e := server.Event{State: server.StepWaiting, Step: "build image " + name, Detail: step}
		if total > 0 {
			e.Detail = fmt.Sprintf("%s %d%%", step, done*100/total)
		}
		p.event(e)
	}
}

// transfer returns the progress function of something that counts bytes.
func (p *progress) transfer(step string) func(what string, done, total int64) {
	return func(what string, done, total int64) {
		e := server.Event{State: server.StepWaiting, Step: step, Detail: what}
		switch {
		case total == 100:
			e.Detail = fmt.Sprintf("%s %d%%", what, done)
		case total > 0:
			e.Detail = fmt.Sprintf("%s %s of %s, %d%%", what, humanBytes(done), humanBytes(total), done*100/total)
		case done > 0:
			e.Detail = what + " " + humanBytes(done)
		}
		p.event(e)
	}
}

// run shows fn as one step.
func (p *progress) run(step string, fn func() error) error {
	p.event(server.Event{State: server.StepStarted, Step: step})
	state := server.StepDone
	err := fn()
	if err != nil {
		state = server.StepFailed
	}
	p.event(server.Event{State: state, Step: step})
	return err
}

// close takes the live line away. The progress may be used again after it.
func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopTicking()
	p.step = ""
}

func (p *progress) begin(step, detail string) {
	p.step, p.detail, p.since, p.said = step, detail, p.now(), p.now()
	if p.live && p.ticking == nil {
		p.ticking = make(chan struct{})
		go p.tick(p.ticking)
	}
	p.draw()
}

func (p *progress) end(word, step string, e server.Event) {
	elapsed := e.Elapsed
	if elapsed == 0 && p.step == step {
		elapsed = p.now().Sub(p.since)
	}
	p.stopTicking()
	p.step = ""
	if !p.quiet {
		fmt.Fprintf(p.w, "%-6s  %s  %s\n", word, joined(step, e.Detail), seconds(elapsed))
	}
}

// line prints a line of its own above the live one, also when quiet.
func (p *progress) line(s string) {
	if p.live {
		fmt.Fprint(p.w, clearLine)
	}
	fmt.Fprintln(p.w, s)
	p.draw()
}

// signOfLife tells a log that a long step still goes on.
func (p *progress) signOfLife() {
	if p.quiet || p.live || p.now().Sub(p.said) < sayEvery {
		p.draw()
		return
	}
	p.said = p.now()
	fmt.Fprintf(p.w, "...     %s  %s\n", joined(p.step, p.detail), seconds(p.now().Sub(p.since)))
}

func (p *progress) draw() {
	if !p.live || p.step == "" {
		return
	}
	fmt.Fprintf(p.w, "%s%s  %s  %s", clearLine, frames[p.frame%len(frames)], joined(p.step, p.detail), seconds(p.now().Sub(p.since)))
}

func (p *progress) tick(stop chan struct{}) {
	t := time.NewTicker(redrawEvery)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		p.mu.Lock()
		if p.ticking == stop {
			p.frame++
			p.draw()
		}
		p.mu.Unlock()
	}
}

func (p *progress) stopTicking() {
	if p.ticking == nil {
		return
	}
	close(p.ticking)
	p.ticking = nil
	if p.live {
		fmt.Fprint(p.w, clearLine)
	}
}

func joined(step, detail string) string {
	if detail == "" {
		return step
	}
	return step + ": " + detail
}

func seconds(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
