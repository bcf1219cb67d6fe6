package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/steadcloud/stead/internal/cli/sshclient"
	"github.com/steadcloud/stead/internal/cli/tarcopy"
	"github.com/steadcloud/stead/internal/server"
)

type cpOptions struct {
	sshOptions
	recursive, root bool
	image           string // of the machine that reads a tape
	sources         []string
	dest            string
}

func newCp(a *App) *cobra.Command {
	var o cpOptions
	cmd := &cobra.Command{
		Use:   "cp SOURCE... DESTINATION",
		Short: "Copy files to and from servers, and from their snapshots",
		Long: `Copies files and folders between this machine and a server, with their modes
and times. NAME:PATH is a file on a server; a path without a slash in front is
below the login user's home. A file of this machine with a colon in its name is
written ./like:this.

NAME@SET:/PATH is a file on a tape: as it was when snapshot set SET of the
server was taken. @latest is the newest complete set, @TIME the newest one at
or before a time such as 2026-11-22T20:45:00Z. A disk is made of the snapshot
and plugged into a small instance for as long as the copy takes, so that the
server itself isn't touched.

What comes is put in its place when it is whole: a copy that is cut off changes
nothing. A folder that is there already is added to.`,
		Example: `  stead cp index.html web:/srv/www/
  stead cp -r web:/etc/nginx ./backup
  stead cp web@latest:/etc/fstab .`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) >= 2 {
				return nil
			}
			return exactly("SOURCE...", "DESTINATION")(cmd, args)
		},
		ValidArgsFunction: a.completePlaces,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.recursive, "recursive", "r", false, "copy folders with all that is in them")
	f.BoolVar(&o.root, "root", false, "read or write as root on the server")
	f.StringVar(&o.key, "key", "", "`PATH` of the key to log in with (default stead's own, then yours)")
	f.StringVar(&o.user, "user", "", "`NAME` to log in as (default the server's)")
	f.StringVar(&o.image, "image", "", "image `ID` or alias of the instance that reads a snapshot (default the server's)")
	return a.command(cmd, func(ctx context.Context, args []string) error {
		o.sources, o.dest = args[:len(args)-1], args[len(args)-1]
		return a.cp(ctx, o)
	})
}

// completePlaces offers servers, and leaves files to the shell.
func (a *App) completePlaces(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(word, "/:.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var places []string
	for _, name := range a.serverNames(cmd.Context()) {
		name, about, _ := strings.Cut(name, "\t")
		places = append(places, cobra.CompletionWithDesc(name+":", about))
	}
	return places, cobra.ShellCompDirectiveNoSpace
}

// place is a file or folder, on this machine, on a server or on a tape.
type place struct{ server, set, path string }

func (p place) local() bool { return p.server == "" }

func (p place) String() string {
	switch {
	case p.local():
		return p.path
	case p.set != "":
		return p.server + "@" + p.set + ":" + p.path
	}
	return p.server + ":" + p.path
}

// parsePlace reads PATH, NAME:PATH or NAME@SET:/PATH. A set may be a time, with
// colons in it.
func parsePlace(s string) (place, error) {
	head, path, found := strings.Cut(s, ":")
	if strings.Contains(head, "/") || !found {
		return place{path: s}, nil
	}
	name, _, tape := strings.Cut(head, "@")
	if !isServerName(name) {
		return place{path: s}, nil
	}
	if !tape {
		return place{server: name, path: path}, nil
	}
	if head, path, found = strings.Cut(s, ":/"); !found {
		return place{}, usage("%s: a path on a tape begins with a slash: NAME@SET:/PATH", s)
	}
	_, set, _ := strings.Cut(head, "@")
	if set == "" {
		return place{}, usage("%s: which snapshot set? @latest is the newest", s)
	}
	return place{server: name, set: set, path: "/" + path}, nil
}

func isServerName(s string) bool { return server.CheckName(s) == nil }

// copied is one copy that was made; its JSON is the verb's output.
type copied struct {
	From string `json:"from"`
	To   string `json:"to"`
	tarcopy.Stats
}

func (a *App) cp(ctx context.Context, o cpOptions) error {
	dest, err := parsePlace(o.dest)
	if err != nil {
		return err
	}
	var sources []place
	for _, s := range o.sources {
		p, err := parsePlace(s)
		if err != nil {
			return err
		}
		sources = append(sources, p)
	}
	if err := checkPlaces(sources, dest); err != nil {
		return err
	}
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	c := copier{app: a, session: s, options: o}
	var done []copied
	if dest.local() {
		done, err = c.fetchAll(ctx, sources, dest.path)
	} else {
		done, err = c.send(ctx, sources, dest)
	}
	s.close()
	if err != nil {
		return err
	}
	return a.print(done, func(w io.Writer) {
		for _, c := range done {
			fmt.Fprintf(w, "%s -> %s  %s, %s\n", c.From, c.To, plural(c.Files, "file"), humanBytes(c.Bytes))
		}
	})
}

// checkPlaces allows copies between this machine and servers.
func checkPlaces(sources []place, dest place) error {
	if dest.set != "" {
		return usage("%s: a snapshot can't be written to", dest)
	}
	for _, p := range sources {
		if p.local() == dest.local() {
			e := usage("%s and %s are both on this machine", p, dest)
			if !p.local() {
				e = usage("%s and %s are both on servers", p, dest)
			}
			e.Remedy = "name a server as NAME:PATH on one side; copy between servers by way of this machine"
			return e
		}
	}
	return nil
}

// copier makes the copies of one command.
type copier struct {
	app     *App
	session *session
	options cpOptions
}

// send copies from here to a server, all in one stream.
func (c *copier) send(ctx context.Context, sources []place, dest place) ([]copied, error) {
	var paths []string
	for _, p := range sources {
		if err := c.readable(p.path); err != nil {
			return nil, err
		}
		paths = append(paths, p.path)
	}
	v, err := c.session.servers.Get(ctx, dest.server)
	if err != nil {
		return nil, err
	}
	t, err := c.app.targetOf(ctx, c.session, v, c.options.sshOptions)
	if err != nil {
		return nil, err
	}
	several := "0"
	if len(sources) > 1 {
		several = "1"
	}
	from := strings.Join(paths, " ")
	var stats tarcopy.Stats
	err = c.step(from, dest.String(), func(progress func(done, total int64)) error {
		total := tarcopy.Size(paths)
		r, w := io.Pipe()
		packed := make(chan error, 1)
		go func() {
			var err error
			stats, err = tarcopy.Pack(w, paths, c.options.recursive, func(n int64) { progress(n, total) })
			_ = w.CloseWithError(err) // always nil
			packed <- err
		}()
		err := c.run(ctx, t, dest, r, io.Discard, "sh", "-c", tarcopy.ReceiveScript, "sh", dest.path, several)
		_ = r.CloseWithError(io.ErrClosedPipe) // always nil
		if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) && ctx.Err() == nil {
			return packErr // what the server makes of half an archive says less
		}
		return err
	})
	c.tellSkipped(stats)
	return []copied{{From: from, To: dest.String(), Stats: stats}}, err
}

// readable tells what is wrong with a source before anything is asked of the
// cloud.
func (c *copier) readable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &server.Error{Code: server.KindNotFound, Op: "copy", Resource: path, Reason: "there is no such file or folder"}
	case err != nil:
		return fmt.Errorf("copy: %w", err)
	case info.IsDir() && !c.options.recursive:
		return &server.Error{Code: server.KindUsage, Op: "copy", Resource: path, Reason: "it is a folder", Remedy: "add -r"}
	}
	return nil
}

// fetchAll copies from servers and tapes to here, one after the other.
func (c *copier) fetchAll(ctx context.Context, sources []place, dest string) ([]copied, error) {
	var done []copied
	for _, p := range sources {
		target, err := tarcopy.Target(dest, p.path, len(sources) > 1)
		var missing *tarcopy.NoFolderError
		if errors.As(err, &missing) {
			return done, &server.Error{Code: server.KindNotFound, Op: "copy", Resource: p.String(), Err: err, Remedy: "mkdir -p " + sshclient.Quote([]string{missing.Path})}
		}
		if err != nil {
			return done, &server.Error{Op: "copy", Resource: p.String(), Err: err}
		}
		stats, err := c.fetchFrom(ctx, p, target)
		if err != nil {
			return done, err
		}
		c.tellSkipped(stats)
		done = append(done, copied{From: p.String(), To: target, Stats: stats})
	}
	return done, nil
}

func (c *copier) fetchFrom(ctx context.Context, p place, target string) (tarcopy.Stats, error) {
	if p.set != "" {
		return c.fetchTape(ctx, p, target)
	}
	v, err := c.session.servers.Get(ctx, p.server)
	if err != nil {
		return tarcopy.Stats{}, err
	}
	t, err := c.app.targetOf(ctx, c.session, v, c.options.sshOptions)
	if err != nil {
		return tarcopy.Stats{}, err
	}
	return c.fetch(ctx, t, p, "", target)
}

// fetch copies one file or folder to here. root is the folder on the far
// machine that its path lies below, "" for /.
func (c *copier) fetch(ctx context.Context, t sshclient.Target, p place, root, target string) (tarcopy.Stats, error) {
	dir := target
	if info, err := os.Stat(target); err != nil || !info.IsDir() {
		dir = filepath.Dir(target)
	}
	recursive := "0"
	if c.options.recursive {
		recursive = "1"
	}
	var stats tarcopy.Stats
	err := c.step(p.String(), target, func(progress func(done, total int64)) error {
		r, w := io.Pipe()
		sent := make(chan error, 1)
		go func() {
			err := c.run(ctx, t, p, strings.NewReader(""), w, "sh", "-c", tarcopy.SendScript, "sh", recursive, p.path, root)
			_ = w.Close() // always nil
			sent <- err
		}()
		in, err := tarcopy.Unpack(r, dir, progress)
		if err == nil {
			_, err = io.Copy(io.Discard, r) // what an archive is padded with
		}
		_ = r.CloseWithError(err) // always nil
		if sendErr := <-sent; sendErr != nil {
			err = sendErr
		}
		if err != nil {
			if in != nil {
				in.Discard()
			}
			return err
		}
		stats = in.Stats
		return in.Place(target)
	})
	return stats, err
}

// run runs one end of a copy on a server. Its exit codes 2 and 4 mean what
// they mean for this program.
func (c *copier) run(ctx context.Context, t sshclient.Target, p place, in io.Reader, out io.Writer, args ...string) error {
	command := sshclient.Quote(args)
	if c.options.root {
		command = rootShell(t.User, command)
	}
	said := &lastWords{max: guestWords}
	code, err := sshclient.Run(ctx, t, sshclient.Stdio{In: in, Out: out, Err: said, Batch: !isTerminal(c.app.Stdin)}, command)
	if err != nil {
		return &server.Error{Op: "ssh to", Resource: "server " + p.server, Err: err, Code: sshKind(ctx, err), Remedy: sshRemedy(p.server, err)}
	}
	switch words := said.String(); {
	case code == 0 && words == "":
		return nil
	case code == 0:
		c.session.progress.event(server.Event{State: server.StepWarning, Step: "copy", Resource: p.String(), Detail: words})
		return nil
	default:
		e := &server.Error{Code: server.KindFailed, Op: "copy", Resource: p.String(), Reason: words}
		switch {
		case code == 4:
			e.Code = server.KindNotFound
			if dir, missing := strings.CutSuffix(words, ": there is no such folder"); missing {
				e.Remedy = "stead exec " + p.server + " -- mkdir -p " + sshclient.Quote([]string{dir})
			}
		case code == 2 && strings.HasSuffix(words, "add -r"):
			e.Code = server.KindUsage
		case strings.Contains(words, "ermission denied"):
			e.Remedy = "--root reads and writes as root"
		}
		return e
	}
}

// step shows fn as one step, with how far it is.
func (c *copier) step(from, to string, fn func(progress func(done, total int64)) error) error {
	const redraw = 100 * time.Millisecond
	name, shown := "copy "+from+" to "+to, time.Time{}
	began := c.app.Now()
	return c.session.progress.run(name, func() error {
		return fn(func(done, total int64) {
			now := c.app.Now()
			if now.Sub(shown) < redraw {
				return
			}
			shown = now
			c.session.progress.event(server.Event{State: server.StepWaiting, Step: name, Detail: transferred(done, total, now.Sub(began))})
		})
	})
}

// transferred is "12.0 MiB of 48.0 MiB (25%), 6.0 MiB/s".
func transferred(done, total int64, elapsed time.Duration) string {
	s := humanBytes(done)
	if total >= done && total > 0 {
		s += fmt.Sprintf(" of %s (%d%%)", humanBytes(total), done*100/total)
	}
	if elapsed > time.Second {
		s += ", " + humanBytes(int64(float64(done)/elapsed.Seconds())) + "/s"
	}
	return s
}

func (c *copier) tellSkipped(s tarcopy.Stats) {
	for _, path := range s.Skipped {
		c.session.progress.event(server.Event{State: server.StepWarning, Step: "copy", Resource: path, Detail: "no file, folder or link: left out"})
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// humanBytes is a number of bytes for people.
func humanBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for v := n / unit; v >= unit; v /= unit {
		div *= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", float64(n)/float64(div), "KMGTPE"[exp])
}
