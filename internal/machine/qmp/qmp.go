// Package qmp is a client of QEMU's control protocol (QMP): JSON objects, one a
// line, on a stream. Commands may be issued from several goroutines at once;
// events are handed to a function as they come.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// maxMessage bounds a line from QEMU. Listings of block nodes are the longest,
// at about 2 KiB a node.
const maxMessage = 16 << 20

// ErrClosed is returned when the connection ended: QEMU is gone, or Close was
// called.
var ErrClosed = errors.New("QMP connection closed")

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"` // GenericError, CommandNotFound, DeviceNotFound, …
	Desc  string `json:"desc"`  // for people; not stable between versions
}

// Error returns QEMU's description.
func (e *Error) Error() string { return e.Desc }

// Event is something that QEMU reports unasked.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// Client is a connection to one QEMU.
type Client struct {
	conn    net.Conn
	onEvent func(Event)
	done    chan struct{} // closed when the reader has ended

	writing sync.Mutex // held while a command is written

	mu      sync.Mutex
	nextID  uint64
	pending map[uint64]chan reply
	err     error // why the reader ended
}

// reply answers one command.
type reply struct {
	result json.RawMessage
	err    error
}

// message is any line from QEMU.
type message struct {
	ID       *uint64         `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *Error          `json:"error"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	Greeting json.RawMessage `json:"QMP"`
}

// Dial connects to the socket at path and negotiates. See New.
func Dial(ctx context.Context, path string, onEvent func(Event)) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return New(ctx, conn, onEvent)
}

// New reads the greeting on conn and leaves the negotiation mode. It owns conn,
// also when it fails. QEMU talks to one client at a time and greets the next
// when the first is gone, so ctx should be bounded.
//
// onEvent, when not nil, is called for each event in order, from the goroutine
// that reads: it must not block and must not call Execute.
func New(ctx context.Context, conn net.Conn, onEvent func(Event)) (*Client, error) {
	if onEvent == nil {
		onEvent = func(Event) {}
	}
	c := &Client{conn: conn, onEvent: onEvent, done: make(chan struct{}), pending: map[uint64]chan reply{}}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 64<<10), maxMessage)
	if err := greeting(lines); err != nil {
		_ = conn.Close()
		return nil, errors.Join(fmt.Errorf("QMP greeting: %w", err), ctx.Err())
	}
	go c.read(lines)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func greeting(lines *bufio.Scanner) error {
	if !lines.Scan() {
		if err := lines.Err(); err != nil {
			return err
		}
		return ErrClosed
	}
	var m message
	if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
		return err
	}
	if m.Greeting == nil {
		return fmt.Errorf("unexpected %.100q", lines.Bytes())
	}
	return nil
}

// Execute runs a command and waits for its answer. args is anything that
// marshals to a JSON object, or nil; the answer is unmarshalled into result
// unless that is nil. A refusal is an *Error. When ctx ends first, the command
// may still take effect.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	id, answer, err := c.register()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer c.forget(id)
	if err := c.send(ctx, id, command, args); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case r := <-answer:
		return decode(command, r, result)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", command, ctx.Err())
	case <-c.done:
	}
	select { // the answer may have come just before the end
	case r := <-answer:
		return decode(command, r, result)
	default:
		return fmt.Errorf("%s: %w", command, c.Err())
	}
}

func decode(command string, r reply, result any) error {
	if r.err != nil {
		return fmt.Errorf("%s: %w", command, r.err)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.result, result); err != nil {
		return fmt.Errorf("%s: answer: %w", command, err)
	}
	return nil
}

func (c *Client) register() (uint64, chan reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.nextID++
	answer := make(chan reply, 1)
	c.pending[c.nextID] = answer
	return c.nextID, answer, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

func (c *Client) send(ctx context.Context, id uint64, command string, args any) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return c.broken(err)
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		// Half a line may be out: nothing sensible can follow it.
		return c.broken(err)
	}
	return nil
}

// broken closes the connection after a failed write.
func (c *Client) broken(err error) error {
	_ = c.conn.Close()
	return fmt.Errorf("%w: %w", ErrClosed, err)
}

func (c *Client) read(lines *bufio.Scanner) {
	defer close(c.done)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			c.fail(fmt.Errorf("%w: malformed message: %w", ErrClosed, err))
			return
		}
		c.dispatch(m)
	}
	if err := lines.Err(); err != nil {
		c.fail(fmt.Errorf("%w: %w", ErrClosed, err))
		return
	}
	c.fail(ErrClosed)
}

func (c *Client) dispatch(m message) {
	if m.Event != "" {
		c.onEvent(Event{Name: m.Event, Data: m.Data})
		return
	}
	if m.ID == nil {
		return // QEMU answers so to a line that it couldn't parse
	}
	c.mu.Lock()
	answer := c.pending[*m.ID]
	delete(c.pending, *m.ID)
	c.mu.Unlock()
	if answer == nil {
		return // its caller gave up
	}
	r := reply{result: m.Return}
	if m.Error != nil {
		r.err = m.Error
	}
	answer <- r
}

func (c *Client) fail(err error) {
	_ = c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the connection has ended; nil while it lasts.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection; QEMU runs on. It returns once no further event will
// be handed out.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
