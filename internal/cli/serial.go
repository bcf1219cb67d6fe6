package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/steadcloud/stead/internal/server"
)

type serialOptions struct {
	name        string
	follow, log bool
	lines       int
}

func newSerial(a *App) *cobra.Command {
	var o serialOptions
	cmd := &cobra.Command{
		Use:     "serial NAME",
		Aliases: []string{"console"},
		Short:   "Read a server's console, or type on it",
		Long: `Prints what a server's machine wrote on its serial console: the messages of its
boot, and why it doesn't. It needs no ssh and no network on the server.

On the local cloud, at a terminal, it connects to the console in both
directions. Enter ~ . ends that, and so does Ctrl-].`,
		Example: `  stead serial web
  stead serial web --lines 20
  stead serial web --follow`,
		Args:              exactly("NAME"),
		ValidArgsFunction: a.completeServers,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on printing what is written")
	f.IntVarP(&o.lines, "lines", "n", 0, "only the last `N` lines of what was written before")
	f.BoolVar(&o.log, "log", false, "only print, also where typing is possible")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.name = args[0]
		return a.serial(ctx, o)
	})
}

func (a *App) serial(ctx context.Context, o serialOptions) error {
	if o.lines < 0 {
		return usage("--lines %d: want a number of lines", o.lines)
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	text, err := s.servers.ConsoleOutput(ctx, o.name)
	if err != nil {
		return err
	}
	s.close()
	shown := lastLines(text, o.lines)
	interactive := s.local != nil && !a.flags.dryRun && !s.withoutMachines() && !o.follow && !o.log && isTerminal(a.Stdin) && isTerminal(a.Stdout)
	if !interactive && !o.follow {
		return a.print(map[string]string{"output": shown}, func(w io.Writer) { fmt.Fprint(w, shown) })
	}
	if _, err := io.WriteString(a.Stdout, shown); err != nil {
		return err
	}
	switch {
	case interactive:
		return a.typeOn(ctx, s, o.name)
	case s.local != nil:
		return a.listen(ctx, s, o.name)
	}
	return a.pollConsole(ctx, s, o.name, text)
}

// lastLines is the end of a text; n 0 is all of it.
func lastLines(text string, n int) string {
	if n == 0 {
		return text
	}
	end := strings.TrimRight(text, "\r\n")
	for at := len(end); n > 0; n-- {
		if at = strings.LastIndexByte(end[:at], '\n'); at < 0 {
			return text
		}
		if n == 1 {
			return text[at+1:]
		}
	}
	return text
}

// port connects to a machine's serial port on the local cloud.
func (a *App) port(ctx context.Context, s *session, name string) (io.ReadWriteCloser, error) {
	v, err := s.servers.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if v.State != server.StateRunning {
		return nil, &server.Error{Code: server.KindExists, Op: "connect to the console of", Resource: "server " + name, Reason: "it is " + v.State, Remedy: "stead start " + name}
	}
	conn, err := s.local.control.Serial(ctx, s.local.info.Region, v.InstanceID)
	if err != nil {
		return nil, &server.Error{Op: "connect to the console of", Resource: "server " + name, Err: err, Remedy: "stead serial " + name + " --log"}
	}
	return conn, nil
}

// listen prints what a machine writes until it stops or ctx ends.
func (a *App) listen(ctx context.Context, s *session, name string) error {
	conn, err := a.port(ctx, s, name)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_, err = io.Copy(a.Stdout, conn)
	_ = conn.Close() // read only
	if ctx.Err() != nil {
		return nil // Ctrl-C is how one ends this
	}
	return err
}

// pollConsole prints what comes to a console that can only be asked for.
func (a *App) pollConsole(ctx context.Context, s *session, name, seen string) error {
	const pause = 3 * time.Second
	for {
		select {
		case <-ctx.Done():
			return nil // Ctrl-C is how one ends this
		case <-time.After(pause):
		}
		text, err := s.servers.ConsoleOutput(ctx, name)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			if _, err := io.WriteString(a.Stdout, newOutput(seen, text)); err != nil {
				return err
			}
			seen = text
		}
	}
}

// newOutput is what text has beyond what was seen. Clouds keep the end of a
// console's output only, so the beginning may have gone.
func newOutput(seen, text string) string {
	if rest, ok := strings.CutPrefix(text, seen); ok {
		return rest
	}
	const known = 512
	tail := seen[max(0, len(seen)-known):]
	if at := strings.LastIndex(text, tail); at >= 0 && tail != "" {
		return text[at+len(tail):]
	}
	return text // another boot
}

// typeOn joins the terminal and a machine's serial port until the user leaves
// or the machine stops.
func (a *App) typeOn(ctx context.Context, s *session, name string) error {
	in, ok := a.Stdin.(*os.File)
	if !ok {
		return errors.New("standard input is no terminal")
	}
	conn, err := a.port(ctx, s, name)
	if err != nil {
		return err
	}
	// First the terminal, then the word that it is: what is typed from now on
	// is the machine's, Ctrl-C too.
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("take over the terminal: %w", err)
	}
	fmt.Fprintf(a.Stderr, "Connected to the console of %s. Enter ~ . or Ctrl-] leaves it.\r\n", name)
	defer func() {
		_ = term.Restore(int(in.Fd()), before) // nothing is left to be done about it
		fmt.Fprintln(a.Stderr)
	}()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	left := make(chan struct{})
	go func() {
		_, _ = io.Copy(conn, &escaping{r: in}) // its end is the user's, or the connection's
		close(left)
		_ = conn.Close()
	}()
	_, err = io.Copy(a.Stdout, conn)
	_ = conn.Close() // it ended
	select {
	case <-left:
		return nil
	default:
	}
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		fmt.Fprintf(a.Stderr, "\r\nThe machine of %s stopped.\r\n", name)
	}
	return err
}

const (
	ctrlBracket = 0x1d
	tilde       = '~'
)

// escaping reads keys until the user leaves: by Ctrl-], or by ~ . at the start
// of a line, as ssh has it. ~ ~ is one tilde.
type escaping struct {
	r       io.Reader
	inLine  bool // something was typed since the last Enter
	pending bool // a tilde that may begin ~.
}

func (e *escaping) Read(p []byte) (int, error) {
	for {
		keys := make([]byte, max(1, len(p)-1)) // a pending tilde takes one more
		n, err := e.r.Read(keys)
		out, left := e.filter(keys[:n])
		if left {
			return copy(p, out), io.EOF
		}
		if len(out) > 0 || err != nil {
			return copy(p, out), err
		}
	}
}

func (e *escaping) filter(keys []byte) (out []byte, left bool) {
	var b bytes.Buffer
	for _, key := range keys {
		if key == ctrlBracket {
			return b.Bytes(), true
		}
		if e.pending {
			e.pending = false
			switch key {
			case '.':
				return b.Bytes(), true
			case tilde:
			default:
				b.WriteByte(tilde)
			}
			e.inLine = true
		} else if key == tilde && !e.inLine {
			e.pending = true
			continue
		}
		b.WriteByte(key)
		e.inLine = key != '\r' && key != '\n'
	}
	return b.Bytes(), false
}
