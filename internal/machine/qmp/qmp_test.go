package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

const hello = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}` + "\n"

// server is the other end of a connection, which a test plays.
type server struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Scanner
}

// command is what a client sent.
type command struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        uint64          `json:"id"`
}

func (s *server) next() command {
	if !s.lines.Scan() {
		s.t.Error("the client closed the connection")
		return command{}
	}
	var c command
	if err := json.Unmarshal(s.lines.Bytes(), &c); err != nil {
		s.t.Errorf("client sent %q: %v", s.lines.Bytes(), err)
	}
	return c
}

func (s *server) send(format string, args ...any) {
	if _, err := fmt.Fprintf(s.conn, format+"\n", args...); err != nil {
		s.t.Error(err)
	}
}

// connect makes a client of a server that has greeted it.
func connect(t *testing.T, onEvent func(Event)) (*Client, *server) {
	t.Helper()
	near, far := net.Pipe()
	s := &server{t: t, conn: far, lines: bufio.NewScanner(far)}
	greeted := make(chan struct{})
	go func() {
		defer close(greeted)
		_, _ = io.WriteString(far, hello)
		if c := s.next(); c.Execute != "qmp_capabilities" {
			t.Errorf("first command %q", c.Execute)
		} else {
			s.send(`{"return": {}, "id": %d}`, c.ID)
		}
	}()
	c, err := New(t.Context(), near, onEvent)
	if err != nil {
		t.Fatal(err)
	}
	<-greeted
	t.Cleanup(func() { _ = c.Close() })
	return c, s
}

func TestAnswersReachTheirCallersInAnyOrder(t *testing.T) {
	c, s := connect(t, nil)
	var calls sync.WaitGroup
	for n := range 5 {
		calls.Go(func() {
			var got int
			if err := c.Execute(t.Context(), "echo", map[string]int{"n": n}, &got); err != nil || got != n {
				t.Errorf("echo %d: %d, %v", n, got, err)
			}
		})
	}
	var commands []command
	for range 5 {
		commands = append(commands, s.next())
	}
	for i := range commands { // the last one first
		cmd := commands[len(commands)-1-i]
		var args struct{ N int }
		if err := json.Unmarshal(cmd.Arguments, &args); err != nil {
			t.Error(err)
		}
		s.send(`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}`)
		s.send(`{"return": %d, "id": %d}`, args.N, cmd.ID)
	}
	calls.Wait()
}

func TestRefusalIsAnError(t *testing.T) {
	c, s := connect(t, nil)
	go func() {
		s.send(`{"id": %d, "error": {"class": "DeviceNotFound", "desc": "no such device"}}`, s.next().ID)
	}()
	err := c.Execute(t.Context(), "device_del", nil, nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.Class != "DeviceNotFound" || !strings.Contains(err.Error(), "device_del: no such device") {
		t.Errorf("error %v", err)
	}
}

func TestEventsComeInOrder(t *testing.T) {
	got := make(chan string, 10)
	_, s := connect(t, func(e Event) { got <- e.Name + string(e.Data) })
	s.send(`{"event": "A", "data": {"x":1}}`)
	s.send(`{"event": "B"}`)
	for _, want := range []string{`A{"x":1}`, "B"} {
		if e := <-got; e != want {
			t.Errorf("event %s, want %s", e, want)
		}
	}
}

func TestLostConnectionFailsCalls(t *testing.T) {
	for name, lose := range map[string]func(*server){
		"closed":    func(s *server) { _ = s.conn.Close() },
		"malformed": func(s *server) { s.send(`{"return": `) },
		"too long":  func(s *server) { _, _ = io.Copy(s.conn, io.LimitReader(endless{}, maxMessage+1)) },
	} {
		t.Run(name, func(t *testing.T) {
			c, s := connect(t, nil)
			go func() {
				s.next()
				lose(s)
			}()
			if err := c.Execute(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
				t.Errorf("call under way: %v, want ErrClosed", err)
			}
			<-c.Done()
			if err := c.Execute(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
				t.Errorf("call afterwards: %v, want ErrClosed", err)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestCallEndsWithItsContext(t *testing.T) {
	c, s := connect(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	late := make(chan uint64)
	go func() {
		id := s.next().ID
		cancel()
		late <- id
	}()
	if err := c.Execute(ctx, "stop", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	// The answer that nobody waits for any more does no harm.
	s.send(`{"return": {}, "id": %d}`, <-late)
	go func() { s.send(`{"return": {"ok": true}, "id": %d}`, s.next().ID) }()
	var got struct{ OK bool }
	if err := c.Execute(t.Context(), "cont", nil, &got); err != nil || !got.OK {
		t.Errorf("next call: %+v, %v", got, err)
	}
}

func TestServerThatIsNotQMP(t *testing.T) {
	for name, greeting := range map[string]string{
		"other text": "SSH-2.0-OpenSSH\n", "other JSON": `{"return": {}}` + "\n", "nothing": "",
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			go func() {
				_, _ = io.WriteString(far, greeting)
				_ = far.Close()
			}()
			if _, err := New(t.Context(), near, nil); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestGreetingThatNeverComes(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, near, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want context.DeadlineExceeded", err)
	}
}

// FuzzServer lets a server say anything: the client neither panics nor hangs.
func FuzzServer(f *testing.F) {
	f.Add([]byte(`{"return": {}, "id": 2}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "x"}, "id": 2}` + "\n"))
	f.Add([]byte(`{"event": "STOP"}` + "\n" + `{"return": 7, "id": 9}` + "\n"))
	f.Add([]byte("{\n\n[]\nnull\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		near, far := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		go func() {
			_, _ = io.WriteString(far, hello+`{"return": {}, "id": 1}`+"\n")
			_, _ = far.Write(said)
			_ = far.Close()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := New(ctx, near, nil)
		if err != nil {
			return // it may be gone before the negotiation is through
		}
		var got any
		_ = c.Execute(ctx, "query-status", nil, &got)
		if ctx.Err() != nil {
			t.Error("the client hangs")
		}
		_ = c.Close()
	})
}
