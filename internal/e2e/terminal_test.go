package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a person at a terminal at which stead runs.
type terminal struct {
	*rig
	end    *os.File // the person's: keys go in, and what is shown comes out
	tty    *os.File // the program's
	before unix.Termios
	cmd    *exec.Cmd
	mu     sync.Mutex
	shown  []byte
	read   int // how much of shown was expected already
	prompt string
}

// terminal starts stead at a terminal of 24 lines and 80 columns.
func (r *rig) terminal(limit time.Duration, args ...string) *terminal {
	r.t.Helper()
	ok := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	end, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	ok(err)
	ok(unix.IoctlSetPointerInt(int(end.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(end.Fd()), unix.TIOCGPTN)
	ok(err)
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	ok(err)
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	ok(err)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	p := &terminal{rig: r, end: end, tty: tty, before: *before, cmd: r.command(ctx, []string{"TERM=vt100"}, "stead", args...)}
	p.resize(24, 80)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = tty, tty, tty
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	ok(p.cmd.Start())
	go p.watch()
	r.t.Cleanup(func() {
		cancel()
		_ = p.cmd.Wait() // for a second time where the test has come through
		_ = tty.Close()
		_ = end.Close()
	})
	return p
}

func (p *terminal) watch() {
	buf := make([]byte, 4096)
	for {
		n, err := p.end.Read(buf)
		p.mu.Lock()
		p.shown = append(p.shown, buf[:n]...)
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// types sends keys.
func (p *terminal) types(keys string) {
	p.t.Helper()
	if _, err := p.end.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// sees waits until a text is shown, and gives all that was shown up to there
// since the last one.
func (p *terminal) sees(text string) string {
	p.t.Helper()
	var got string
	if !p.waits(func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		at := strings.Index(string(p.shown[p.read:]), text)
		if at >= 0 {
			got = string(p.shown[p.read : p.read+at+len(text)])
			p.read += len(got)
		}
		return at >= 0
	}) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.t.Fatalf("%q isn't shown, but\n%q", text, p.shown[p.read:])
	}
	return got
}

// runs types a command line at the prompt, and gives what it prints.
func (p *terminal) runs(line string) string {
	p.t.Helper()
	p.sees(p.prompt)
	// The quotes keep the marks from being found in the echo, which the shell's
	// own editing may write more than once.
	p.types("echo be''gun; " + line + "; echo do''ne\r")
	p.sees("begun")
	return strings.TrimSpace(strings.TrimSuffix(p.sees("done"), "done"))
}

// echoes types a word to a program that reads a line, and sees it once.
func (p *terminal) echoes() {
	p.t.Helper()
	p.sees(p.prompt)
	p.types("echo re''ady; read -r word; echo go''t $word\r")
	p.sees("ready")
	p.types("abracadabra\r")
	if shown := p.sees("got abracadabra"); strings.Count(shown, "abracadabra") != 2 {
		p.t.Errorf("what was typed is shown as %q", shown)
	}
}

func (p *terminal) resize(lines, columns uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.end.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: lines, Col: columns}); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for the program's end, which must leave the terminal as it was,
// and gives its exit code.
func (p *terminal) ends() int {
	p.t.Helper()
	_ = p.cmd.Wait() // its code says it
	after, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	if *after != p.before {
		p.t.Errorf("the terminal was %+v, and is left as %+v", p.before, *after)
	}
	return p.cmd.ProcessState.ExitCode()
}

// interrupts stops what runs in the shell, and nothing else.
func (p *terminal) interrupts() {
	p.t.Helper()
	p.sees(p.prompt)
	p.types("echo slee''ping; sleep 300\r")
	p.sees("sleeping")
	time.Sleep(200 * time.Millisecond) // from the echo to the sleep is a fork
	p.types("\x03")
	p.sees(p.prompt)
	p.types("echo co''de $?\r")
	p.sees("code 130")
}

// checkShells types at a server as its login user, by ssh.
func checkShell(t *testing.T, r *rig, name, prompt string) {
	t.Helper()
	p := r.terminal(patience, "ssh", name)
	p.prompt = prompt
	if got := p.runs("stty size"); got != "24 80" {
		t.Errorf("the size is %q", got)
	}
	p.resize(50, 132)
	p.waitUntil("the size is passed on", func() bool { return p.runs("stty size") == "50 132" })
	p.echoes()
	p.interrupts()
	p.sees(prompt)
	p.types("exit 5\r")
	if code := p.ends(); code != 5 {
		t.Errorf("ssh ended with %d", code)
	}
}

// checkConsole logs in on a server's console as root, and leaves it in both
// ways.
func checkConsole(t *testing.T, r *rig, name string) {
	t.Helper()
	const prompt = "# "
	r.sh(name, "printf 'wonderful\\nwonderful\\n' | sudo passwd root >/dev/null 2>&1")
	p := r.terminal(patience, "serial", name, "--lines", "5")
	p.sees("leaves it")
	p.types("\r")
	p.sees("login: ")
	p.types("root\r")
	p.sees("assword: ")
	p.types("wonderful\r")
	p.prompt = prompt
	if got := p.runs("echo $((6 * 7))"); got != "42" {
		t.Errorf("on the console: %q", got)
	}
	p.echoes()
	p.interrupts()
	p.sees(prompt)
	p.types("~~\x7fecho th''ere\r") // one tilde, and taken back
	p.sees("there")
	p.sees(prompt)
	p.types("exit\r") // or the next one would be logged in
	p.sees("login: ")
	p.types("~.")
	if code := p.ends(); code != 0 {
		t.Errorf("serial ended with %d", code)
	}
	p = r.terminal(patience, "serial", name, "--lines", "5")
	p.sees("leaves it")
	p.types("\x1d")
	if code := p.ends(); code != 0 {
		t.Errorf("serial left by Ctrl-] ended with %d", code)
	}
}

// checkRepairShell stops a running server to look around on its disk, and
// leaves the disk at the helper.
func checkRepairShell(t *testing.T, r *rig, name string) {
	t.Helper()
	p := r.terminal(2*patience, "repair", name, "--hold")
	p.sees("take its root disk out for the time of the repair? [y/N] ")
	p.types("y\r")
	p.sees("stead repair " + name + " --finish")
	p.sees("# ") // there may be colours before it
	p.types("PS1='mend''ing> '\r")
	p.prompt = "mending> "
	if got := p.runs("grep -c . /etc/fstab; stty size"); !strings.HasSuffix(got, "24 80") || strings.HasPrefix(got, "0") {
		t.Errorf("on its disk: %q", got)
	}
	p.echoes()
	p.interrupts()
	p.sees(p.prompt)
	p.types("exit 3\r")
	if code := p.ends(); code != 3 {
		t.Errorf("repair ended with %d", code)
	}
}
