package cloud

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/machine"
)

// talkers are machines whose serial ports greet and say back what is typed.
type talkers struct {
	noMachines
	old bool // started by a version without consoles
	mu  sync.Mutex
	far []net.Conn // the machines' ends
}

type talker struct {
	vm
	t *talkers
}

func (t *talkers) start(ctx context.Context, spec machine.Spec) (vm, error) {
	v, err := t.noMachines.start(ctx, spec)
	return talker{v, t}, err
}

func (talker) Accel() machine.Accel { return machine.AccelTCG }

func (v talker) Console(context.Context) (io.ReadWriteCloser, error) {
	if v.t.old {
		return nil, machine.ErrNoConsole
	}
	near, far := net.Pipe()
	v.t.mu.Lock()
	v.t.far = append(v.t.far, far)
	v.t.mu.Unlock()
	go func() {
		lines := bufio.NewScanner(far)
		for lines.Scan() {
			if _, err := io.WriteString(far, "you said "+lines.Text()+"\n"); err != nil {
				return
			}
		}
	}()
	return near, nil
}

func (v talker) Shutdown(ctx context.Context, grace time.Duration) error {
	v.t.mu.Lock()
	for _, c := range v.t.far {
		_ = c.Close() // as QEMU's end does
	}
	v.t.far = nil
	v.t.mu.Unlock()
	return v.vm.Shutdown(ctx, grace)
}

// serveControl serves a cloud's control socket.
func serveControl(t *testing.T, c *Cloud) *Control {
	t.Helper()
	l, err := listenControl(c.dir.ControlSocket())
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{cfg: Config{Account: DefaultAccount, Log: slog.New(slog.DiscardHandler)}, cloud: c}
	srv := &http.Server{Handler: d.controlHandler(), ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(l) }() // until it is closed
	t.Cleanup(func() { _ = srv.Close() })
	ctl, err := Connect(string(c.dir))
	if err != nil {
		t.Fatal(err)
	}
	return ctl
}

func openTalkers(t *testing.T, k *talkers) (*Cloud, *ec2.Client, *Control) {
	t.Helper()
	dir := shortDir(t)
	k.volumes = dir.Volumes()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := Open(ctx, Options{Dir: dir, Account: DefaultAccount, Keys: testKeys, Log: testLog(t, slog.LevelInfo)}, k)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, testClient(t, c, DefaultRegion), serveControl(t, c)
}

func serial(t *testing.T, ctl *Control, id string) (io.ReadWriteCloser, *bufio.Reader) {
	t.Helper()
	conn, err := ctl.Serial(t.Context(), DefaultRegion, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, bufio.NewReader(conn)
}

func wantLine(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	if got, err := r.ReadString('\n'); err != nil || got != want+"\n" {
		t.Fatalf("read %q (%v), want %q", got, err, want)
	}
}

func say(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text+"\n"); err != nil {
		t.Fatal(err)
	}
}

// All who are connected share one port, which outlives a reboot and ends with
// the instance.
func TestSerialIsShared(t *testing.T) {
	k := &talkers{}
	c, client, ctl := openTalkers(t, k)
	image := testImage(t, c, client)
	id := launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image})
	a, fromA := serial(t, ctl, id)
	b, fromB := serial(t, ctl, id)
	eventually(t, "both are there", func() bool {
		c.consoles.mu.Lock()
		defer c.consoles.mu.Unlock()
		return len(c.consoles.byID[id].clients) == 2
	})
	say(t, a, "hello")
	wantLine(t, fromA, "you said hello")
	wantLine(t, fromB, "you said hello")
	say(t, b, "there")
	wantLine(t, fromA, "you said there")
	wantLine(t, fromB, "you said there")
	if _, err := client.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new machine is connected to", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.far) == 1
	})
	eventually(t, "the console has it", func() bool {
		c.consoles.mu.Lock()
		defer c.consoles.mu.Unlock()
		return c.consoles.byID[id].machine != nil
	})
	say(t, a, "again")
	wantLine(t, fromB, "you said again")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	wantLine(t, fromA, "you said again")
	if _, err := client.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	if got, err := fromA.ReadString('\n'); !errors.Is(err, io.EOF) {
		t.Errorf("after the stop: %q, %v", got, err)
	}
	waitInstance(t, client, id, types.InstanceStateNameStopped)
	if _, err := ctl.Serial(t.Context(), DefaultRegion, id); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("a stopped instance: %v", err)
	}
}

func TestSerialRefuses(t *testing.T) {
	k := &talkers{old: true}
	c, client, ctl := openTalkers(t, k)
	image := testImage(t, c, client)
	id := launchOne(t, client, &ec2.RunInstancesInput{ImageId: &image})
	for name, want := range map[string]string{id: "older version", "i-0123456789abcdef0": "does not exist"} {
		if _, err := ctl.Serial(t.Context(), DefaultRegion, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := ctl.Serial(t.Context(), "eu-west-1", id); err == nil {
		t.Error("the instance was found in another region")
	}
}
