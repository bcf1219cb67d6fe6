package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/steadcloud/stead/internal/state"
)

const (
	// consoleBacklog is how many pieces of output wait for a client. One that
	// reads more slowly is cut off: a guest must never wait for it.
	consoleBacklog = 256
	// consoleRedial is how soon a machine that restarts is connected to again.
	consoleRedial = 100 * time.Millisecond
)

// consoles are the serial ports that clients are connected to. All clients of
// one share it: each sees all output, and what any of them types goes to the
// guest.
type consoles struct {
	mu   sync.Mutex
	byID map[string]*console // by instance ID
}

type console struct {
	machine io.ReadWriteCloser // nil while the machine restarts
	clients map[*consoleClient]struct{}
}

type consoleClient struct {
	conn net.Conn
	out  chan []byte // closed when the client is cut off
}

// noMachineError says that an instance has no serial port to connect to now.
type noMachineError struct{ id, state string }

func (e *noMachineError) Error() string {
	return fmt.Sprintf("instance %s is %s: its serial port is there only while it runs", e.id, e.state)
}

// openConsole checks that an instance's serial port can be connected to.
func (c *Cloud) openConsole(ctx context.Context, s state.Scope, id string) error {
	var inst *state.Instance
	err := c.db.View(func(tx *state.Tx) (err error) {
		inst, err = find[state.Instance](tx, s, instanceIDs, id)
		return err
	})
	if err != nil {
		return err
	}
	h := c.running.get(id)
	if h == nil || inst.State != state.Running {
		return &noMachineError{id, inst.State}
	}
	c.consoles.mu.Lock()
	defer c.consoles.mu.Unlock()
	if c.consoles.byID[id] != nil {
		return nil
	}
	m, err := h.vm.Console(ctx)
	if err != nil {
		return err
	}
	if c.consoles.byID == nil {
		c.consoles.byID = map[string]*console{}
	}
	con := &console{machine: m, clients: map[*consoleClient]struct{}{}}
	c.consoles.byID[id] = con
	go c.pumpConsole(s, id, con)
	return nil
}

// serveConsole carries a client's bytes to and from a serial port until either
// goes away. openConsole must have succeeded.
func (c *Cloud) serveConsole(id string, conn net.Conn) error {
	defer func() { _ = conn.Close() }() // the other side is gone, or has been told
	client := &consoleClient{conn: conn, out: make(chan []byte, consoleBacklog)}
	c.consoles.mu.Lock()
	con := c.consoles.byID[id]
	if con == nil {
		c.consoles.mu.Unlock()
		return errors.New("the machine went away")
	}
	con.clients[client] = struct{}{}
	c.consoles.mu.Unlock()
	go func() {
		defer func() { _ = conn.Close() }() // ends the reading below, too
		for b := range client.out {
			if _, err := conn.Write(b); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			c.consoles.send(con, buf[:n])
		}
		if err != nil {
			c.consoles.leave(con, client)
			return nil
		}
	}
}

// send gives the guest what a client typed; while the machine restarts nobody
// is there to read it.
func (cs *consoles) send(con *console, b []byte) {
	cs.mu.Lock()
	m := con.machine
	cs.mu.Unlock()
	if m != nil {
		_, _ = m.Write(b) // a machine that is gone is noticed by the reader
	}
}

// leave takes a client off; the last one's leaving ends the connection to the
// machine.
func (cs *consoles) leave(con *console, client *consoleClient) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, ok := con.clients[client]; ok {
		delete(con.clients, client)
		close(client.out)
	}
	if len(con.clients) == 0 && con.machine != nil {
		_ = con.machine.Close() // its reader ends
	}
}

// tell gives every client what the guest wrote.
func (cs *consoles) tell(con *console, b []byte) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for client := range con.clients {
		select {
		case client.out <- b:
		default:
			delete(con.clients, client)
			close(client.out)
		}
	}
}

// pumpConsole passes a machine's output on. It follows the instance from one
// machine to the next, as in a reboot, until it stops or nobody listens.
func (c *Cloud) pumpConsole(s state.Scope, id string, con *console) {
	for {
		c.readConsole(con)
		c.consoles.mu.Lock()
		con.machine = nil
		c.consoles.mu.Unlock()
		m := c.redialConsole(s, id, con)
		c.consoles.mu.Lock()
		if m == nil || len(con.clients) == 0 {
			delete(c.consoles.byID, id)
			for client := range con.clients {
				close(client.out)
			}
			clear(con.clients)
			c.consoles.mu.Unlock()
			if m != nil {
				_ = m.Close() // nobody listens
			}
			return
		}
		con.machine = m
		c.consoles.mu.Unlock()
	}
}

func (c *Cloud) readConsole(con *console) {
	defer func() { _ = con.machine.Close() }() // read to its end
	defer context.AfterFunc(c.work.ctx, func() { _ = con.machine.Close() })()
	for {
		buf := make([]byte, 4096) // each client keeps it until it is written
		n, err := con.machine.Read(buf)
		if n > 0 {
			c.consoles.tell(con, buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// redialConsole connects to an instance's next machine; nil when there will be
// none, or nobody waits for it.
func (c *Cloud) redialConsole(s state.Scope, id string, con *console) io.ReadWriteCloser {
	ctx := c.work.ctx
	for {
		c.consoles.mu.Lock()
		listeners := len(con.clients)
		c.consoles.mu.Unlock()
		inst, err := load[state.Instance](c, job{(*state.Instance)(nil).Kind(), s, id})
		if listeners == 0 || err != nil || inst == nil || inst.Want != state.Running {
			return nil
		}
		if h := c.running.get(id); h != nil {
			if m, err := h.vm.Console(ctx); err == nil {
				return m
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(consoleRedial):
		}
	}
}
