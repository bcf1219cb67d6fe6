package server_test

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/steadcloud/stead/internal/server"
)

func TestMachineCloneKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	k := &killer{}
	b := newBench(t, k)
	m := b.manager(b.client)
	ctx := t.Context()
	web, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	_, err = m.Stop(ctx, "web", true)
	b.check(err)
	everyStep(t, k,
		func(int) {
			if _, err := m.Get(ctx, "copy"); err == nil {
				_, err = m.Purge(ctx, "copy", server.PurgeOptions{Snapshots: true})
				b.check(err)
			}
		},
		func(ctx context.Context, _ int) error {
			_, err := m.Clone(ctx, "web", server.CloneOptions{Name: "copy"})
			return err
		},
		func(int) {
			s, err := m.Get(ctx, "copy")
			b.check(err)
			if s.State != server.StateRunning || !s.Protected || len(s.Data) != 1 || s.Data[0].Mount != web.Data[0].Mount || s.ElasticIP == "" || s.ElasticIP == web.ElasticIP || len(s.Warnings) > 0 {
				t.Errorf("the clone is %+v", s)
			}
			inv := b.inventory()
			if len(inv.live) != 2 || len(inv.volumes) != 4 || len(inv.images) != 0 || inv.groups != 2 || len(inv.addresses) != 2 {
				t.Errorf("there are %d instances, %d volumes, images %v, %d groups, %d addresses", len(inv.live), len(inv.volumes), inv.images, inv.groups, len(inv.addresses))
			}
			root := inv.volumes[s.Root.VolumeID]
			if tag(root.Tags, "stead:server") != "copy" || tag(root.Tags, "stead:elastic-ip") != s.ElasticIP || tag(root.Tags, "stead:instance") != s.InstanceID {
				t.Errorf("its root is tagged %v", root.Tags)
			}
			if is, err := m.Get(ctx, "web"); err != nil || is.Root.VolumeID != web.Root.VolumeID || is.ElasticIP != web.ElasticIP {
				t.Errorf("the source is %+v, %v", is, err)
			}
		})
}

func TestClone(t *testing.T) {
	t.Parallel()
	onBoth(t, testClone)
}

func testClone(t *testing.T, b *bench, _ *killer) {
	api := &launches{EC2: b.client}
	m := b.manager(api)
	ctx := t.Context()
	_, set := b.quietServer(m)
	api.list = nil
	r, err := m.Clone(ctx, "web", server.CloneOptions{Name: "copy", Set: set.ID, Type: "t3.small"})
	b.check(err)
	if r.Set != set.ID || r.Server.Type != "t3.small" {
		t.Errorf("cloned %+v", r)
	}
	script, err := base64.StdEncoding.DecodeString(aws.ToString(api.list[0].UserData))
	b.check(err)
	for _, line := range []string{"\n# stead: new-identity\n", "\n# stead: hostname copy\n"} {
		if !strings.Contains(string(script), line) {
			t.Errorf("the user data lacks %q:\n%s", line, script)
		}
	}
	if api.list[0].PrivateIpAddress != nil {
		t.Error("it asks for the source's private address")
	}
	if _, err := m.Clone(ctx, "web", server.CloneOptions{Name: "copy"}); !errors.Is(err, server.ErrExists) {
		t.Errorf("a taken name: %v", err)
	}
	if _, err := m.Clone(ctx, "nobody", server.CloneOptions{Name: "other"}); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("of no server: %v", err)
	}
}
