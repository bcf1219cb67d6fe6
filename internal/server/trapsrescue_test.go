package server_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/server"
)

// ledger is a transport that keeps what was asked for, in order. answer, if
// it has one, stands in for the endpoint.
type ledger struct {
	mu     sync.Mutex
	seen   []url.Values
	answer func(form url.Values) string
}

func (o *ledger) RoundTrip(r *http.Request) (*http.Response, error) {
	form := formOf(r)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = append(o.seen, form)
	if o.answer != nil {
		if body := o.answer(form); body != "" {
			return &http.Response{
				StatusCode: http.StatusOK, Status: "OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
				Header: http.Header{"Content-Type": {"text/xml"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r,
			}, nil
		}
	}
	return http.DefaultTransport.RoundTrip(r)
}

// of returns the requests for an action.
func (o *ledger) of(actions ...string) []url.Values {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []url.Values
	for _, f := range o.seen {
		for _, a := range actions {
			if f.Get("Action") == a {
				list = append(list, f)
			}
		}
	}
	return list
}

func (b *bench) ended(m *server.Manager, o server.CreateOptions) *server.Server {
	b.t.Helper()
	web, err := m.Create(b.t.Context(), o)
	b.check(err)
	_, err = m.Terminate(b.t.Context(), "web")
	b.check(err)
	return web
}

// The root goes where the stand-in's own image has its root, whatever that is
// called and whatever it was called before. Nor are the two ever attached at
// once: their file systems have the same UUIDs.
func TestTrap03And07RootDeviceAndOneRootAtATime(t *testing.T) {
	t.Parallel()
	watch := &ledger{}
	b := newBench(t, watch)
	m := b.manager(b.client)
	web := b.ended(m, b.faultOptions())
	_, err := b.client.CreateTags(t.Context(), &ec2.CreateTagsInput{
		Resources: []string{web.Root.VolumeID}, Tags: []types.Tag{{Key: aws.String("stead:device"), Value: aws.String("/dev/sda1")}},
	})
	b.check(err)
	watch.seen = nil
	s, err := m.Rescue(t.Context(), "web", server.RescueOptions{By: server.RescueSwap})
	b.check(err)
	if s.Server.Root.VolumeID != web.Root.VolumeID || s.Server.Root.Device != "/dev/xvda" {
		t.Errorf("its root is %+v", s.Server.Root)
	}
	calls := watch.of("DetachVolume", "AttachVolume", "StartInstances")
	var order []string
	for _, c := range calls {
		step := c.Get("Action")
		if c.Get("VolumeId") == web.Root.VolumeID {
			step += " root " + c.Get("Device")
		} else if c.Get("VolumeId") == web.Data[0].VolumeID {
			step += " data"
		}
		order = append(order, step)
	}
	if got := strings.Join(order, ", "); got != "DetachVolume, AttachVolume root /dev/xvda, AttachVolume data, StartInstances" {
		t.Errorf("it did: %s", got)
	}
}

// RegisterImage's own defaults are those of 2006, so each is said; and
// Encrypted isn't, for it can't be with a snapshot.
func TestTrap04RegisterImageSaysAll(t *testing.T) {
	t.Parallel()
	// A store without variables, in EC2's form. Endpoints differ in whether they
	// still have that of an instance which is gone.
	const variables = "QU1aTlVFRkmxVslUAAAAAHjaYoACQAAAAP//AAgAAQ=="
	watch := &ledger{answer: func(form url.Values) string {
		if form.Get("Action") != "GetInstanceUefiData" {
			return ""
		}
		return `<GetInstanceUefiDataResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><instanceId>` + form.Get("InstanceId") +
			"</instanceId><uefiData>" + variables + "</uefiData></GetInstanceUefiDataResponse>"
	}}
	b := newBench(t, watch)
	m := b.manager(b.client)
	web := b.ended(m, b.faultOptions())
	_, err := b.client.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{web.Root.VolumeID}, Tags: []types.Tag{
		{Key: aws.String("stead:boot-mode"), Value: aws.String("uefi")},
		{Key: aws.String("stead:tpm"), Value: aws.String("v2.0")},
		{Key: aws.String("stead:imds"), Value: aws.String("v2.0")},
	}})
	b.check(err)
	_, err = m.Rescue(t.Context(), "web", server.RescueOptions{By: server.RescueSnapshot})
	b.check(err)
	calls := watch.of("RegisterImage")
	call := calls[len(calls)-1]
	for key, want := range map[string]string{
		"Architecture": "x86_64", "VirtualizationType": "hvm", "BootMode": "uefi", "EnaSupport": "true", "TpmSupport": "v2.0",
		"ImdsSupport": "v2.0", "UefiData": variables,
		"RootDeviceName": web.Root.Device, "KernelId": "", "RamdiskId": "",
	} {
		if got := call.Get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	for key := range call {
		if strings.HasSuffix(key, ".Encrypted") {
			t.Errorf("%s is sent", key)
		}
	}
}

// variablesGone refuses to tell an instance's UEFI variables.
type variablesGone struct{ *ledger }

func (v variablesGone) RoundTrip(r *http.Request) (*http.Response, error) {
	if formOf(r).Get("Action") == "GetInstanceUefiData" {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.seen = append(v.seen, url.Values{"Action": {"GetInstanceUefiData"}})
		return refused(r, http.StatusBadRequest, "IncorrectInstanceState"), nil
	}
	return v.ledger.RoundTrip(r)
}

// An instance that is gone, or an endpoint that doesn't know the call, takes its
// UEFI variables along; the rescue goes on without.
func TestTrap04UEFIVariablesGone(t *testing.T) {
	t.Parallel()
	watch := &ledger{}
	b := newBench(t, variablesGone{watch})
	m := b.manager(b.client)
	web := b.ended(m, b.faultOptions())
	_, err := b.client.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{web.Root.VolumeID}, Tags: []types.Tag{
		{Key: aws.String("stead:boot-mode"), Value: aws.String("uefi")},
	}})
	b.check(err)
	_, err = m.Rescue(t.Context(), "web", server.RescueOptions{By: server.RescueSnapshot})
	b.check(err)
	if n := len(watch.of("GetInstanceUefiData")); n != 1 {
		t.Errorf("the variables were asked for %d times", n)
	}
	for _, call := range watch.of("RegisterImage") {
		if call.Has("UefiData") {
			t.Errorf("variables are sent that there are none of: %q", call.Get("UefiData"))
		}
	}
}

// A task that fails leaves the stand-in with its old root, or with none: both
// are mended by a swap, and say so.
func TestTrap06FailedTaskIsSwapped(t *testing.T) {
	for _, state := range []string{"failed", "failed-detached"} {
		t.Run(state, func(t *testing.T) { failedTaskIsSwapped(t, state) })
	}
}

func failedTaskIsSwapped(t *testing.T, state string) {
	const ns = `xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"`
	instance := ""
	watch := &ledger{answer: func(form url.Values) string {
		task := func(state string) string {
			return "<replaceRootVolumeTaskId>replacevol-1</replaceRootVolumeTaskId><instanceId>" + instance + "</instanceId><taskState>" + state + "</taskState><startTime>2026-01-01T00:00:00Z</startTime>"
		}
		switch form.Get("Action") {
		case "CreateReplaceRootVolumeTask":
			instance = form.Get("InstanceId")
			return `<CreateReplaceRootVolumeTaskResponse ` + ns + `><replaceRootVolumeTask>` + task("pending") + `</replaceRootVolumeTask></CreateReplaceRootVolumeTaskResponse>`
		case "DescribeReplaceRootVolumeTasks":
			item := ""
			if instance != "" {
				item = "<item>" + task(state) + "</item>"
			}
			return `<DescribeReplaceRootVolumeTasksResponse ` + ns + `><replaceRootVolumeTaskSet>` + item + `</replaceRootVolumeTaskSet></DescribeReplaceRootVolumeTasksResponse>`
		}
		return ""
	}}
	b := newBench(t, watch)
	m := b.manager(b.client)
	web := b.ended(m, b.bareOptions())
	r, err := m.Rescue(t.Context(), "web", server.RescueOptions{By: server.RescueReplaceRoot})
	b.check(err)
	if instance == "" || r.Server.State != server.StateRunning || r.Server.Root.VolumeID != web.Root.VolumeID || len(r.Server.Warnings) > 0 {
		t.Errorf("rescued %+v", r.Server)
	}
	b.checkAttributes(r.Server.InstanceID)
	if inv := b.inventory(); len(inv.live) != 1 || len(inv.volumes) != 1 {
		t.Errorf("there are %d instances and %d volumes", len(inv.live), len(inv.volumes))
	}
	told := false
	for _, e := range b.events {
		told = told || strings.Contains(e.Detail, state+";")
	}
	if !told {
		t.Error("it doesn't say why it swapped")
	}
}
