package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/steadcloud/stead/internal/server"
)

func TestProgressLines(t *testing.T) {
	events := []server.Event{
		{State: server.StepStarted, Step: "launch", Resource: "web"},
		{State: server.StepWaiting, Step: "launch", Resource: "web", Detail: "pending"},
		{State: server.StepWarning, Step: "launch", Resource: "web", Detail: "no address"},
		{State: server.StepDone, Step: "launch", Resource: "web", Elapsed: 1500 * time.Millisecond},
	}
	tests := []struct {
		name  string
		quiet bool
		want  string
	}{
		{"plain", false, "...     launch web: pending  11.0s\nwarning: launch web: no address\nok      launch web  1.5s\n"},
		{"quiet still warns", true, "warning: launch web: no address\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			now := time.Unix(0, 0)
			p := &progress{w: &out, quiet: tt.quiet, now: func() time.Time { return now }}
			for _, e := range events {
				p.event(e)
				now = now.Add(11 * time.Second)
			}
			p.close()
			if out.String() != tt.want {
				t.Errorf("got\n%s\nwant\n%s", out.String(), tt.want)
			}
		})
	}
}

// A live line never stays behind: after the last step the cursor is on an
// empty line.
func TestLiveLineIsTakenAway(t *testing.T) {
	var out bytes.Buffer
	p := &progress{w: &out, live: true, now: time.Now}
	p.event(server.Event{State: server.StepStarted, Step: "launch"})
	p.close()
	if s := out.String(); !strings.Contains(s, "launch") || !strings.HasSuffix(s, clearLine) {
		t.Errorf("%q", s)
	}
}
