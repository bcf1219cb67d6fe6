package yield

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the session of TestSession.
func TestMain(m *testing.M) {
	if os.Getenv("STEAD_TEST_SESSION") != "" {
		session()
		return
	}
	os.Exit(m.Run())
}

// TestThread has one goroutine stand back: nobody else does, and its thread ends
// with it, or is put away if it is the process's first, which can't end.
func TestThread(t *testing.T) {
	type seen struct{ tid, nice int }
	back, stay := make(chan seen), make(chan struct{})
	go func() {
		if runtime.LockOSThread(); unix.Gettid() == os.Getpid() {
			back <- seen{}
			<-stay
			return
		}
		if err := Thread(); err != nil {
			t.Error(err)
		}
		back <- seen{unix.Gettid(), niceOf(t, unix.Gettid())}
		<-stay
	}()
	got := <-back
	if got.tid == 0 {
		close(stay)
		TestThread(t) // the first thread is put away now
		return
	}
	if got.nice != niceness {
		t.Errorf("the thread has niceness %d, want %d", got.nice, niceness)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		var tid int
		if _, err := fmt.Sscan(task.Name(), &tid); err != nil {
			t.Fatal(err)
		}
		if tid != got.tid && niceOf(t, tid) == niceness {
			t.Errorf("thread %d stands back as well", tid)
		}
	}
	close(stay)
	gone := func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", got.tid))
		return errors.Is(err, fs.ErrNotExist)
	}
	for deadline := time.Now().Add(time.Minute); !gone(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the thread outlives its goroutine, for others to stand back on")
		}
	}
}

// niceOf gives a thread's niceness; one that is gone has none.
func niceOf(t *testing.T, tid int) int {
	t.Helper()
	n, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	if errors.Is(err, unix.ESRCH) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return 20 - n // the system call can't give a negative number
}

// TestSession has a session of its own stand back for two works at once, and step
// forward after the second.
func TestSession(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STEAD_TEST_SESSION=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil || said.Len() > 0 {
		t.Fatalf("%v: %s", err, said.Bytes())
	}
	want := "0 10 10 10 0 10\n"
	if !groups(t) {
		want = "none none none none none none\n"
	}
	if string(out) != want {
		t.Errorf("the session's niceness went %swant %s", out, want)
	}
}

// groups tells if this kernel gives a new session a group of its own. The tests'
// session says nothing about that: one as old as the kernel has none.
func groups(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command("cat", autogroup)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err) // no cat; one that finds no such file exits
	}
	return len(out) > 0
}

// session prints its niceness at the beginning, after each Begin, after one End,
// when it has stepped forward after the second, and after one more Begin.
func session() {
	s := NewSession(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	seen := []string{current()}
	s.Begin()
	seen = append(seen, until("10"))
	s.Begin()
	seen = append(seen, current())
	s.End()
	time.Sleep(linger + turn) // nothing moves; what would, would by now
	seen = append(seen, current())
	s.End()
	seen = append(seen, until("0"))
	s.Begin()
	seen = append(seen, until("10"))
	fmt.Println(strings.Join(seen, " "))
}

// until waits for a niceness, and gives the one that there is in the end.
func until(want string) string {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if n := current(); n == want || n == none || time.Now().After(deadline) {
			return n
		}
	}
}

// none is the niceness of a session where the kernel has no such groups, or was
// told to do without.
const none = "none"

func current() string {
	text, err := os.ReadFile(autogroup)
	_, n, ok := strings.Cut(strings.TrimSpace(string(text)), " nice ")
	if err != nil || !ok {
		return none
	}
	return n
}

// TestSessionOfOthers leaves a session alone that others are in: the one that
// began these tests.
func TestSessionOfOthers(t *testing.T) {
	if sid, err := unix.Getsid(0); err != nil || sid == os.Getpid() {
		t.Fatalf("the tests began their session %d: %v", sid, err)
	}
	before := current()
	var said bytes.Buffer
	s := NewSession(slog.New(slog.NewTextHandler(&said, nil)))
	s.Begin()
	if now := current(); now != before || said.Len() > 0 {
		t.Errorf("niceness %s, before %s; it says %q", now, before, said.String())
	}
	s.End()
}
