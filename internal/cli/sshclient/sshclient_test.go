package sshclient_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/steadcloud/stead/internal/cli/sshclient"
)

// fakeHost is an ssh server of its own make that the real ssh client talks to.
// It runs each command by a local shell.
type fakeHost struct {
	addr *net.TCPAddr
	key  ssh.PublicKey
}

func startHost(t *testing.T, allowed ssh.PublicKey) fakeHost {
	t.Helper()
	own, err := sshclient.OwnKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(own.PrivatePath)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if bytes.Equal(key.Marshal(), allowed.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("unknown key")
	}}
	cfg.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn, cfg)
		}
	}()
	return fakeHost{addr: l.Addr().(*net.TCPAddr), key: signer.PublicKey()}
}

func serve(conn net.Conn, cfg *ssh.ServerConfig) {
	sc, channels, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		return
	}
	defer func() { _ = sc.Close() }()
	go ssh.DiscardRequests(requests)
	for nc := range channels {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		go func() {
			for req := range reqs {
				_ = req.Reply(req.Type == "exec", nil)
				if req.Type == "exec" {
					go runCommand(ch, req.Payload)
				}
			}
		}()
	}
}

func runCommand(ch ssh.Channel, payload []byte) {
	var p struct{ Command string }
	_ = ssh.Unmarshal(payload, &p)
	cmd := exec.Command("sh", "-c", p.Command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ch, ch, ch.Stderr()
	cmd.WaitDelay = 100 * time.Millisecond // don't wait for a client that keeps stdin open
	_ = cmd.Run()
	status := ssh.Marshal(struct{ Code uint32 }{uint32(cmd.ProcessState.ExitCode())})
	_, _ = ch.SendRequest("exit-status", false, status)
	_ = ch.Close()
}

type rig struct {
	dir    string
	own    sshclient.Key
	host   fakeHost
	target sshclient.Target
	hosts  sshclient.KnownHosts
}

func newRig(t *testing.T) rig {
	t.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		if os.Getenv("STEAD_STRICT") == "1" {
			t.Fatal("STEAD_STRICT=1: no ssh client")
		}
		t.Skip("no ssh client")
	}
	// A space in the path must not split an option.
	dir := filepath.Join(t.TempDir(), "con fig")
	own, err := sshclient.OwnKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := rig{dir: dir, own: own, host: startHost(t, own.Public), hosts: sshclient.OpenKnownHosts(dir)}
	r.target = sshclient.Target{
		Host: r.host.addr.IP.String(), Port: r.host.addr.Port, User: "nobody", Alias: "stead-local-web",
		Identities: []string{own.PrivatePath}, OnlyThese: true, KnownHosts: r.hosts.Path(),
	}
	return r
}

func (r rig) run(t *testing.T, stdin, command string) (int, string, error) {
	t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	code, err := sshclient.Run(ctx, r.target, sshclient.Stdio{In: strings.NewReader(stdin), Out: &out, Err: io.Discard, Batch: true}, command)
	return code, out.String(), err
}

func TestRun(t *testing.T) {
	r := newRig(t)
	for _, code := range []int{0, 1, 7, 254} {
		got, _, err := r.run(t, "", "exit "+string(rune('0'+code/100))+string(rune('0'+code/10%10))+string(rune('0'+code%10)))
		if err != nil || got != code {
			t.Errorf("exit %d: got %d, %v", code, got, err)
		}
	}
	if _, out, err := r.run(t, "hello", "cat"); err != nil || out != "hello" {
		t.Errorf("cat: %q, %v", out, err)
	}
	args := []string{"printf", "[%s]", "a b", "it's", "$HOME", "", `\`, "é", "-n", "A=1", "*"}
	if _, out, err := r.run(t, "", sshclient.Quote(args)); err != nil || out != `[a b][it's][$HOME][][\][é][-n][A=1][*]` {
		t.Errorf("quoted arguments arrived as %s, %v", out, err)
	}
}

func TestRunFails(t *testing.T) {
	t.Run("key refused", func(t *testing.T) {
		r := newRig(t)
		other, err := sshclient.OwnKey(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		r.target.Identities = []string{other.PrivatePath}
		if _, _, err := r.run(t, "", "true"); !errors.Is(err, sshclient.ErrDenied) {
			t.Errorf("got %v, want ErrDenied", err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		r := newRig(t)
		r.target.Port = closedPort(t)
		if _, _, err := r.run(t, "", "true"); !errors.Is(err, sshclient.ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		r := newRig(t)
		ctx, cancel := context.WithCancel(context.Background())
		started := writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil })
		_, err := sshclient.Run(ctx, r.target, sshclient.Stdio{In: strings.NewReader(""), Out: started, Err: io.Discard, Batch: true}, "echo started; sleep 60")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func TestHostKeys(t *testing.T) {
	r := newRig(t)
	r.target.Pinned = true
	if _, _, err := r.run(t, "", "true"); !errors.Is(err, sshclient.ErrHostKey) {
		t.Errorf("unknown key, pinned: %v, want ErrHostKey", err)
	}
	r.target.Pinned = false
	if _, _, err := r.run(t, "", "true"); err != nil {
		t.Errorf("first contact: %v", err)
	}
	if known, err := r.hosts.Has(r.target.Alias); err != nil || !known {
		t.Errorf("not kept after the first contact: %v, %v", known, err)
	}
	r.target.Pinned = true
	if _, _, err := r.run(t, "", "true"); err != nil {
		t.Errorf("second contact: %v", err)
	}
	// Another machine under the same alias, as after an attack.
	stranger := startHost(t, r.own.Public)
	r.target.Port = stranger.addr.Port
	for _, pinned := range []bool{true, false} {
		r.target.Pinned = pinned
		if _, _, err := r.run(t, "", "true"); !errors.Is(err, sshclient.ErrHostKey) {
			t.Errorf("changed key, pinned %v: %v, want ErrHostKey", pinned, err)
		}
	}
	if err := r.hosts.Replace(r.target.Alias, "vol-1", []ssh.PublicKey{stranger.key}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.run(t, "", "true"); err != nil {
		t.Errorf("after Replace: %v", err)
	}
	if note, err := r.hosts.Note(r.target.Alias); err != nil || note != "vol-1" {
		t.Errorf("note %q, %v", note, err)
	}
	if err := r.hosts.Replace("stead-local-we", "", nil); err != nil {
		t.Fatal(err)
	}
	if known, _ := r.hosts.Has(r.target.Alias); !known {
		t.Error("forgetting a prefix forgot the whole name")
	}
}

func TestOwnKeyIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	const callers = 8
	lines := make(chan string, callers)
	for range callers {
		go func() {
			k, err := sshclient.OwnKey(dir)
			if err != nil {
				t.Error(err)
				lines <- ""
				return
			}
			lines <- string(k.AuthorizedLine())
		}()
	}
	first := <-lines
	for range callers - 1 {
		if line := <-lines; line != first {
			t.Errorf("two keys:\n%s\n%s", first, line)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "id_ed25519"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v", info.Mode(), err)
	}
	read, err := sshclient.ReadKey(filepath.Join(dir, "id_ed25519"))
	if err != nil || string(read.AuthorizedLine()) != first || read.PrivatePath == "" {
		t.Errorf("read back: %+v, %v", read, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "id_ed25519"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sshclient.OwnKey(dir); err == nil {
		t.Error("a damaged key was taken or replaced in silence")
	}
}

func TestConsoleHostKeys(t *testing.T) {
	line := func(k ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) }
	var keys []ssh.PublicKey
	for range 3 {
		k, err := sshclient.OwnKey(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k.Public)
	}
	const begin, end = "-----BEGIN SSH HOST KEY KEYS-----\r\n", "-----END SSH HOST KEY KEYS-----\r\n"
	tests := []struct {
		name, console string
		want          []ssh.PublicKey
	}{
		{"none", "Linux version 6.1\r\nlogin: ", nil},
		{"one", "boot\r\n" + begin + line(keys[0]) + " root@tiny\r\n" + end + "login: ", keys[:1]},
		{"prefixes", "[    5.1] cloud-init[1]: " + begin + "ci-info: " + line(keys[0]) + " root@x\r\n[ 5.2] " + line(keys[1]) + "\r\n" + end, keys[:2]},
		{"the last boot counts", begin + line(keys[0]) + "\r\n" + end + begin + line(keys[2]) + "\r\n" + end, keys[2:]},
		{"cut off", begin + line(keys[0]) + "\r\n", nil},
		{"only the end", line(keys[0]) + "\r\n" + end, nil},
		{"garbage", begin + "ssh-ed25519 AAAAnot+a+key\r\n\r\nssh-ed25519\r\n" + end, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := sshclient.ConsoleHostKeys(tt.console)
			if len(got) != len(tt.want) {
				t.Fatalf("%d keys, want %d", len(got), len(tt.want))
			}
			for i := range got {
				if line(got[i]) != line(tt.want[i]) {
					t.Errorf("key %d is %s", i, line(got[i]))
				}
			}
		})
	}
}

func FuzzConsoleHostKeys(f *testing.F) {
	f.Add("-----BEGIN SSH HOST KEY KEYS-----\nssh-ed25519 AAAA\n-----END SSH HOST KEY KEYS-----")
	f.Fuzz(func(t *testing.T, console string) {
		for _, k := range sshclient.ConsoleHostKeys(console) {
			if k == nil {
				t.Error("nil key")
			}
		}
	})
}
