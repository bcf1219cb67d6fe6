package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/server"
)

// killer is a transport that ends a run at its k-th call that changes
// something: the endpoint does what the call says, and the process that made
// it learns no more, as after a kill -9. It also throttles when told to.
type killer struct {
	mu       sync.Mutex
	at       int // 0: never
	seen     int
	fired    bool
	actions  []string
	cancel   context.CancelFunc
	throttle int // every n-th call is answered with RequestLimitExceeded
	calls    int
	refused  int
}

func (k *killer) RoundTrip(r *http.Request) (*http.Response, error) {
	action := actionOf(r)
	k.mu.Lock()
	k.calls++
	if k.throttle > 0 && k.calls%k.throttle == 0 {
		k.refused++
		k.mu.Unlock()
		return throttled(r), nil
	}
	mutates := action != "" && !strings.HasPrefix(action, "Describe") && !strings.HasPrefix(action, "Get")
	kill := false
	if mutates && !k.fired {
		k.seen++
		k.actions = append(k.actions, action)
		kill = k.at > 0 && k.seen == k.at
		k.fired = kill
	}
	k.mu.Unlock()
	if !kill {
		return http.DefaultTransport.RoundTrip(r)
	}
	res, err := http.DefaultTransport.RoundTrip(r.WithContext(context.WithoutCancel(r.Context())))
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	k.cancel()
	return nil, context.Canceled
}

func actionOf(r *http.Request) string {
	if path, ok := strings.CutPrefix(r.URL.Path, "/snapshots"); ok { // the EBS direct APIs
		switch {
		case r.Method == http.MethodPut:
			return "PutSnapshotBlock"
		case r.Method == http.MethodPost && path == "":
			return "StartSnapshot"
		case r.Method == http.MethodPost:
			return "CompleteSnapshot"
		}
		return ""
	}
	return formOf(r).Get("Action")
}

// formOf reads an EC2 request; another's is empty.
func formOf(r *http.Request) url.Values {
	if r.Body == nil || r.Header.Get("X-Amz-Target") != "" {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil
	}
	return form
}

func throttled(r *http.Request) *http.Response {
	return refused(r, http.StatusServiceUnavailable, "RequestLimitExceeded")
}

// refused is an answer with one of EC2's error codes.
func refused(r *http.Request, status int, code string) *http.Response {
	body := `<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>` + code + `</Code><Message>As the test wants it.</Message></Error></Errors><RequestID>1</RequestID></Response>`
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"text/xml"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r,
	}
}

// killed runs f with a context that ends at the k-th changing call. It tells
// whether that call came, and what f returned.
func (k *killer) killed(at int, f func(context.Context) error) (fired bool, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	k.mu.Lock()
	k.at, k.seen, k.fired, k.cancel, k.actions = at, 0, false, cancel, nil
	k.mu.Unlock()
	err = f(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	fired, k.at = k.fired, 0
	return fired, err
}

// everyStep kills run at each of its changing calls in turn, with prepare
// before and the same run again after, and has check look at the result.
func everyStep(t *testing.T, k *killer, prepare func(at int), run func(ctx context.Context, at int) error, check func(at int)) {
	t.Helper()
	for at := 1; ; at++ {
		prepare(at)
		fired, err := k.killed(at, func(ctx context.Context) error { return run(ctx, at) })
		last := k.actions[len(k.actions)-1]
		if !fired {
			if err != nil {
				t.Fatalf("undisturbed: %v", err)
			}
			t.Logf("%d changing calls: %v", len(k.actions), k.actions)
			check(at)
			return
		}
		if err == nil {
			t.Fatalf("killed at call %d, %s: no error", at, last)
		}
		if kind := server.KindOf(err); kind != server.KindInterrupted {
			t.Errorf("killed at call %d, %s: kind %s (%v), want interrupted", at, last, kind, err)
		}
		err = run(context.Background(), at)
		// After its very last call the first run was complete.
		if err != nil && (!errors.Is(err, server.ErrExists) || last != "DeleteTags") {
			t.Fatalf("killed at call %d, %s, and repeated: %v", at, last, err)
		}
		check(at)
		if t.Failed() {
			t.Fatalf("this was after call %d, %s", at, last)
		}
	}
}

// faultOptions is a server with one data disk.
func (b *bench) faultOptions() server.CreateOptions {
	return server.CreateOptions{Name: "web", Image: b.imageID, Type: "t3.micro", Data: []server.DataSpec{{SizeGiB: 1}}, Key: []byte(publicKey)}
}

// whole checks that the region has the server, with all its parts, and nothing
// else.
func (b *bench) whole(m *server.Manager, volumes int) {
	b.t.Helper()
	s, err := m.Get(context.Background(), "web")
	b.check(err)
	if s.State != server.StateRunning || !s.Protected || len(s.Warnings) != 0 || len(s.Data) != 1 || s.Root.Role != server.RoleRoot || s.PublicIP == "" || s.ElasticIP == "" {
		b.t.Errorf("the server is %+v", s)
	}
	inv := b.inventory()
	if len(inv.live) != 1 || len(inv.volumes) != volumes || inv.groups != 1 || len(inv.addresses) != 1 {
		b.t.Errorf("there are %d instances, %d volumes, %d groups, %d addresses", len(inv.live), len(inv.volumes), inv.groups, len(inv.addresses))
	}
	for _, i := range inv.live {
		if *i.InstanceId != s.InstanceID || tag(i.Tags, "stead:stand-in") != "" || tag(i.Tags, "stead:step") != "" {
			b.t.Errorf("instance %s is tagged %v", *i.InstanceId, i.Tags)
		}
	}
	for _, id := range disks(s) {
		v := inv.volumes[id]
		if tag(v.Tags, "stead:server") != "web" || tag(v.Tags, "stead:device") == "" || tag(v.Tags, "stead:stand-in") != "" {
			b.t.Errorf("volume %s is tagged %v", id, v.Tags)
		}
	}
	if root := inv.volumes[s.Root.VolumeID]; tag(root.Tags, "stead:open") != "22" || tag(root.Tags, "stead:type") != "t3.micro" || tag(root.Tags, "stead:instance") != s.InstanceID {
		b.t.Errorf("root is tagged %v", root.Tags)
	}
}

// clear removes all that the region has of the server.
func (b *bench) clear(m *server.Manager) {
	b.t.Helper()
	ctx := context.Background()
	if _, err := m.Terminate(ctx, "web"); err != nil && !errors.Is(err, server.ErrNotFound) {
		b.t.Fatal(err)
	}
	for id := range b.inventory().volumes {
		b.deleteVolume(id)
	}
	b.releaseAddresses()
	b.deleteAccess()
}

func TestMachineCreateKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	everyStep(t, k,
		func(int) { b.clear(m) },
		func(ctx context.Context, _ int) error { _, err := m.Create(ctx, b.faultOptions()); return err },
		func(int) { b.whole(m, 2) })
}

func TestMachineTerminateKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	everyStep(t, k,
		func(int) {
			if s, err := m.Get(t.Context(), "web"); err == nil && s.State == server.StateDetached {
				_, err = m.Rescue(t.Context(), "web", server.RescueOptions{})
				b.check(err)
			}
			b.doom("web")
		},
		func(ctx context.Context, _ int) error { _, err := m.Terminate(ctx, "web"); return err },
		func(int) {
			s, err := m.Get(t.Context(), "web")
			b.check(err)
			if inv := b.inventory(); s.State != server.StateDetached || len(s.Data) != 1 || len(inv.live) != 0 || len(inv.volumes) != 2 {
				t.Errorf("the server is %+v; %d instances, %d volumes", s, len(inv.live), len(inv.volumes))
			}
		})
}

func TestMachineSwapKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	rescueKilledAtEveryCall(t, server.RescueSwap, func(b *bench, m *server.Manager, before *server.Server, _ int) {
		b.whole(m, 2)
		if s, err := m.Get(t.Context(), "web"); err != nil || disks(s)[0] != disks(before)[0] || disks(s)[1] != disks(before)[1] {
			t.Errorf("disks are %v, %v; were %v", disks(s), err, disks(before))
		}
	})
}

func TestMachineSnapshotRescueKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	rescueKilledAtEveryCall(t, server.RescueSnapshot, func(b *bench, m *server.Manager, _ *server.Server, at int) {
		// Each rescue leaves its two old disks, two snapshots, one image.
		b.whole(m, 2+2*at)
		if inv := b.inventory(); inv.snapshots != 2*at || len(inv.images) != at {
			t.Errorf("there are %d snapshots and %d images after %d rescues", inv.snapshots, len(inv.images), at)
		}
	})
}

func rescueKilledAtEveryCall(t *testing.T, by server.RescueBy, check func(b *bench, m *server.Manager, before *server.Server, at int)) {
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	before, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	everyStep(t, k,
		func(int) { _, err := m.Terminate(t.Context(), "web"); b.check(err) },
		func(ctx context.Context, _ int) error {
			_, err := m.Rescue(ctx, "web", server.RescueOptions{By: by})
			return err
		},
		func(at int) { check(b, m, before, at) })
}

func TestThrottled(t *testing.T) {
	t.Parallel()
	k := &killer{throttle: 12}
	b := newBench(t, k)
	m := b.manager(b.client)
	if _, err := m.Create(t.Context(), b.faultOptions()); err != nil {
		t.Fatal(err)
	}
	if k.refused == 0 {
		t.Error("nothing was throttled")
	}
	b.whole(m, 2)
}

func TestTwoRescuesAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	m := b.manager(b.client)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	_, err = m.Terminate(t.Context(), "web")
	b.check(err)
	if b.isMoto() {
		m = b.manager(&oneLaunch{EC2: b.client, t: t, launched: map[string]*ec2.RunInstancesOutput{}})
	}
	errs := make(chan error, 2)
	for range 2 {
		go func() { _, err := m.Rescue(context.Background(), "web", server.RescueOptions{}); errs <- err }()
	}
	done := 0
	for range 2 {
		err := <-errs
		switch {
		case err == nil:
			done++
		case !errors.Is(err, server.ErrExists):
			t.Logf("one of the two: %v", err)
		}
	}
	if done == 0 {
		t.Error("neither came through")
	}
	if s, err := m.Get(t.Context(), "web"); err != nil || s.State != server.StateRunning {
		_, err = m.Rescue(t.Context(), "web", server.RescueOptions{})
		b.check(err)
	}
	b.whole(m, 2)
}

// refuser is a transport on which one action always fails with a code.
type refuser struct{ action, code string }

func (f refuser) RoundTrip(r *http.Request) (*http.Response, error) {
	if actionOf(r) == f.action {
		return refused(r, http.StatusBadRequest, f.code), nil
	}
	return http.DefaultTransport.RoundTrip(r)
}
