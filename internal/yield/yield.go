// Package yield lets the guests go first: what is done beside them takes the
// processor time that they leave.
//
// Linux shares processors out between groups of processes first, and within a
// group by niceness. What a group is depends on the host: where the daemon and
// its machines are in one control group, as under systemd, niceness counts
// between their threads ([Thread]). Where they are in none, each session is a
// group of its own (autogroup, sched(7)), each machine has a session, and only
// the niceness of the session counts ([Session]). So both are set.
package yield

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// niceness is how far what yields stands back: beside a guest that would take all
// of a processor it gets a tenth. More would have whoever waits for it wait, too.
const niceness = 10

// Thread has the calling goroutine stand back from now until it ends; the thread
// that it runs on ends with it, or is put away if it is the process's first.
func Thread() error {
	runtime.LockOSThread() // for good: a thread can't be made to step forward again
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceness); err != nil {
		return fmt.Errorf("make a thread nice: %w", err)
	}
	return nil
}

// Session has the processes of this session stand back while somebody wants it. A
// session that this process didn't begin is left alone, for others are in it.
type Session struct {
	log    *slog.Logger
	before int // the niceness that it had, and has when nobody wants more

	mu     sync.Mutex
	wanted int // Begins without their End
	now    int // its niceness
	timer  *time.Timer
}

const (
	// linger is how long a session stays back when nobody wants it any more, so
	// that many short works one after another don't have it move each time.
	linger = time.Second
	// turn is when to ask again: Linux lets all users together move a session ten
	// times a second.
	turn = 110 * time.Millisecond
)

// NewSession returns the session of this process. Where there is nothing to move,
// or that fails, work goes on as before; a failure is logged.
func NewSession(log *slog.Logger) *Session {
	nice, err := sessionNice()
	if err != nil {
		log.Warn("work beside guests won't stand back", "err", err)
		nice = niceness
	}
	return &Session{log: log, before: nice, now: nice}
}

// Begin has the session stand back until there are as many calls of End.
func (s *Session) Begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted++
	s.settle()
}

// End takes one Begin back.
func (s *Session) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted--
	if s.wanted == 0 && s.now != s.before {
		s.again(linger)
	}
}

// again settles later. s.mu is held.
func (s *Session) again(after time.Duration) {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(after, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.settle()
	})
}

// settle moves the session to where it is wanted. s.mu is held.
func (s *Session) settle() {
	want := s.before
	if s.wanted > 0 {
		want = max(s.before, niceness)
	}
	if want == s.now {
		return
	}
	err := os.WriteFile(autogroup, []byte(strconv.Itoa(want)), 0)
	if errors.Is(err, unix.EAGAIN) {
		s.again(turn)
		return
	}
	if err != nil {
		s.log.Warn("work beside guests can't stand back or step forward again", "niceness", want, "err", err)
	}
	s.now = want // also where that failed: it isn't tried for each piece of work
}

const autogroup = "/proc/self/autogroup"

// sessionNice gives niceness where there is nothing to set: the kernel has no
// such groups, or the session is another's.
func sessionNice() (int, error) {
	if sid, err := unix.Getsid(0); err != nil || sid != os.Getpid() {
		return niceness, err
	}
	text, err := os.ReadFile(autogroup)
	if errors.Is(err, fs.ErrNotExist) {
		return niceness, nil
	}
	if err != nil {
		return niceness, err
	}
	// "/autogroup-25 nice 0"
	_, nice, ok := strings.Cut(strings.TrimSpace(string(text)), " nice ")
	if !ok {
		return niceness, nil
	}
	n, err := strconv.Atoi(nice)
	if err != nil {
		return niceness, fmt.Errorf("read %s: %w", autogroup, err)
	}
	return n, nil
}
