package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/steadcloud/stead/internal/machine/qmp"
)

// eventBuffer is how many events wait for a reader. A guest that restarts in a
// circle must not fill the daemon's memory: the oldest give way.
const eventBuffer = 64

// Events returns what the machine does by itself, in order. The channel is
// closed after ExitedEvent. Events that nobody reads are dropped, the oldest
// first; Status is the truth, events say when to ask. After Open the first
// events tell what a guest did while nobody was there.
func (m *Machine) Events() <-chan Event { return m.events }

// emit queues an event. Called from one goroutine at a time.
func (m *Machine) emit(e Event) {
	for {
		select {
		case m.events <- e:
			return
		default:
		}
		select {
		case <-m.events:
		default:
		}
	}
}

// watch ends the event stream with the process.
func (m *Machine) watch() {
	select {
	case <-m.proc.done:
	case <-m.qmp.Done():
		<-m.proc.done
	}
	_ = m.qmp.Close() // returns when onEvent won't be called again
	m.emit(ExitedEvent{})
	close(m.events)
}

// onEvent is called by the QMP client and must not block.
func (m *Machine) onEvent(e qmp.Event) {
	if translated := m.translate(e); translated != nil {
		m.emit(translated)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for w := range m.waiters {
		if w.match(e) {
			select {
			case w.seen <- struct{}{}:
			default:
			}
		}
	}
}

// translate returns the Event for one of QEMU's, nil for those that aren't the
// machine's own doing.
func (m *Machine) translate(e qmp.Event) Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e.Name {
	case "SHUTDOWN":
		if byGuest(e.Data) && m.asked == 0 {
			return GuestShutdownEvent{}
		}
	case "RESET":
		if byGuest(e.Data) {
			return GuestResetEvent{}
		}
	case "BLOCK_IO_ERROR":
		ioErr, stops, writing := parseIOError(e.Data)
		if writing {
			m.distrust(ioErr.VolumeID)
		}
		if !stops || m.ioError != nil {
			return nil // every request on its way fails; the first one counts
		}
		m.ioError = &ioErr
		return ioErr
	case "RESUME":
		m.ioError = nil
		return ResumedEvent{}
	}
	return nil
}

func byGuest(data json.RawMessage) bool {
	var d struct {
		Guest bool `json:"guest"`
	}
	return json.Unmarshal(data, &d) == nil && d.Guest
}

// parseIOError reads a BLOCK_IO_ERROR, whether it stops the machine, and whether
// it was a write that failed, or a flush, which can't be told apart.
func parseIOError(data json.RawMessage) (e IOError, stops, writing bool) {
	var d struct {
		NodeName string `json:"node-name"`
		Action   string `json:"action"`
		Op       string `json:"operation"`
		NoSpace  bool   `json:"nospace"`
		Reason   string `json:"reason"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return IOError{}, false, false
	}
	return IOError{VolumeID: volumeOfNode(d.NodeName), Reason: d.Reason, NoSpace: d.NoSpace}, d.Action == "stop", d.Op != "read"
}

// volumeOfNode returns the volume of a block node, empty for a node that isn't
// ours.
func volumeOfNode(node string) string {
	if kind, volume, ok := strings.Cut(node, "-"); ok && len(kind) == 1 && strings.ContainsAny(kind, "bv") {
		return volume
	}
	return ""
}

// expect begins to listen for an event of QEMU's. The caller does what brings it
// about, then waits on the channel, and calls stop at last.
func (m *Machine) expect(match func(qmp.Event) bool) (seen <-chan struct{}, stop func()) {
	w := &waiter{match: match, seen: make(chan struct{}, 1)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiters[w] = struct{}{}
	return w.seen, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.waiters, w)
	}
}

// catchUp queues, for a machine just adopted, the events that say what state it
// was found in. It is called before events are read.
func (m *Machine) catchUp(ctx context.Context) error {
	st, err := m.Status(ctx)
	if err != nil {
		return err
	}
	if st.State == Exited {
		return ErrNotRunning
	}
	if st.State == GuestShutdown {
		return m.found(GuestShutdownEvent{})
	}
	if st.IOError != nil {
		m.mu.Lock()
		m.distrust(st.IOError.VolumeID)
		m.mu.Unlock()
		return m.found(*st.IOError)
	}
	return nil
}

// found queues an event from outside the goroutine that emits.
func (m *Machine) found(e Event) error {
	select {
	case m.events <- e:
		return nil
	default:
		return fmt.Errorf("event %T: the queue is full", e)
	}
}
