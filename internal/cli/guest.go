package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/cli/sshclient"
	"github.com/steadcloud/stead/internal/server"
)

// The bounds of one script on a server. Growing a large file system or copying
// a large folder there takes its time.
const (
	guestTimeout = 30 * time.Minute
	guestOutput  = 4 << 20 // bytes of stdout
	guestWords   = 2 << 10 // bytes of stderr that an error ends with
)

// errGuestOutput says that a script wrote more than anything here asks for.
var errGuestOutput = errors.New("it wrote more than 4 MiB")

// guest runs scripts on servers over ssh. It is the session's server.Guest.
type guest struct {
	app     *App
	session *session
}

// Run implements server.Guest.
func (g *guest) Run(ctx context.Context, v *server.Server, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, guestTimeout)
	defer cancel()
	t, err := g.app.targetOf(ctx, g.session, v, sshOptions{name: v.Name})
	if err != nil {
		return "", err
	}
	out, said := &bounded{left: guestOutput}, &lastWords{max: guestWords}
	code, err := sshclient.Run(ctx, t, sshclient.Stdio{
		In: strings.NewReader(rootScript(script)), Out: out, Err: said, Batch: true,
	}, rootShell(t.User, "sh -s"))
	switch {
	case err != nil:
		return "", &server.Error{Op: "ssh to", Resource: "server " + v.Name, Err: err, Code: sshKind(ctx, err), Remedy: sshRemedy(v.Name, err)}
	case code != 0:
		return "", scriptFailed(v.Name, t.User, code, said.String())
	case out.left < 0:
		return "", &server.Error{Op: "run a script on", Resource: "server " + v.Name, Err: errGuestOutput}
	}
	return out.String(), nil
}

// scriptFailed says why a script failed on a server, by its last words. Most
// often it is that the login user may not become root without a password.
func scriptFailed(name, user string, code int, said string) error {
	e := &server.Error{
		Op: "run a script on", Resource: "server " + name, Code: server.KindFailed,
		Reason: strings.TrimSuffix(fmt.Sprintf("exit status %d: %s", code, said), ": "), Remedy: "stead ssh " + name,
	}
	switch {
	case user == "root":
	case code == exitNoProgram && strings.Contains(said, "sudo"):
		e.Reason = user + " can't become root there: sudo isn't installed"
		e.Remedy = "install it as root by the console: stead serial " + name
	case strings.HasPrefix(said, "sudo: ") || strings.Contains(said, "; sudo: "):
		e.Reason = user + " can't become root there without a password: " + said
		e.Remedy = fmt.Sprintf("stead ssh -t %s -- \"echo '%s ALL=(ALL) NOPASSWD:ALL' | sudo tee /etc/sudoers.d/90-stead\"", name, user)
	}
	return e
}

// exitNoProgram is a shell's exit code for a program that isn't there.
const exitNoProgram = 127

// rootShell is the command line that runs command as root for a login user.
func rootShell(user, command string) string {
	if user == "root" {
		return command
	}
	return "sudo -n " + command
}

// rootScript makes a script safe to be read from a connection: the shell runs
// nothing of a group before it has read the whole of it, so a script that was
// cut off does nothing; and what the script starts can't read the script away.
func rootScript(script string) string { return "{\n:\n" + script + "\n} </dev/null\n" }

// bounded keeps what is written up to a limit, and goes on reading beyond it:
// a full pipe would hang the program that writes.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left >= 0 {
		return b.Buffer.Write(p)
	}
	return len(p), nil
}

// ReadFrom hides the buffer's own, which knows no bound.
func (b *bounded) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{b}, r)
}

// lastWords keeps the end of what is written, as one line.
type lastWords struct {
	max  int
	text []byte
}

func (l *lastWords) Write(p []byte) (int, error) {
	l.text = append(l.text, p...)
	if over := len(l.text) - l.max; over > 0 {
		l.text = append(l.text[:0], l.text[over:]...)
	}
	return len(p), nil
}

// String joins the lines, for an error is one sentence.
func (l *lastWords) String() string {
	var lines []string
	for line := range strings.Lines(string(l.text)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
