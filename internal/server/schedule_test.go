package server_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	dlmtypes "github.com/aws/aws-sdk-go-v2/service/dlm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"

	"github.com/steadcloud/stead/internal/server"
)

// shelf keeps lifecycle policies as DLM does, for endpoints that have none. It
// ends a run at its k-th changing call: the call is done, its answer lost.
type shelf struct {
	made     int
	policies map[string]*dlmtypes.LifecyclePolicy
	at, seen int
	calls    []string
	cancel   context.CancelFunc
	lose     bool // the next answer is lost, and no more than that
	fail     error
}

func newShelf() *shelf { return &shelf{policies: map[string]*dlmtypes.LifecyclePolicy{}} }

// changed counts a call and tells how it ends.
func (s *shelf) changed(call string) error {
	noteCall("dlm", call)
	s.seen++
	s.calls = append(s.calls, call)
	if s.lose {
		s.lose = false
		return &net.OpError{Op: "read", Err: errors.New("the connection broke")}
	}
	if s.at > 0 && s.seen == s.at {
		s.cancel()
		return context.Canceled
	}
	return nil
}

func (s *shelf) find(id *string) (*dlmtypes.LifecyclePolicy, error) {
	if p := s.policies[aws.ToString(id)]; p != nil {
		return p, nil
	}
	return nil, &dlmtypes.ResourceNotFoundException{Message: aws.String("no such policy")}
}

func (s *shelf) CreateLifecyclePolicy(_ context.Context, in *dlm.CreateLifecyclePolicyInput, _ ...func(*dlm.Options)) (*dlm.CreateLifecyclePolicyOutput, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	s.made++
	id := fmt.Sprintf("policy-%04d", s.made)
	s.policies[id] = &dlmtypes.LifecyclePolicy{
		PolicyId: &id, PolicyArn: aws.String("arn:aws:dlm:r:0:policy/" + id), State: dlmtypes.GettablePolicyStateValues(in.State),
		ExecutionRoleArn: in.ExecutionRoleArn, PolicyDetails: in.PolicyDetails, Tags: in.Tags,
	}
	return &dlm.CreateLifecyclePolicyOutput{PolicyId: &id}, s.changed("CreateLifecyclePolicy")
}

func (s *shelf) GetLifecyclePolicies(_ context.Context, in *dlm.GetLifecyclePoliciesInput, _ ...func(*dlm.Options)) (*dlm.GetLifecyclePoliciesOutput, error) {
	noteCall("dlm", "GetLifecyclePolicies")
	out := &dlm.GetLifecyclePoliciesOutput{}
	for _, p := range s.policies {
		t := p.PolicyDetails.TargetTags[0]
		if len(in.TargetTags) == 0 || slices.Contains(in.TargetTags, *t.Key+"="+*t.Value) {
			out.Policies = append(out.Policies, dlmtypes.LifecyclePolicySummary{PolicyId: p.PolicyId, Tags: p.Tags})
		}
	}
	return out, nil
}

func (s *shelf) GetLifecyclePolicy(_ context.Context, in *dlm.GetLifecyclePolicyInput, _ ...func(*dlm.Options)) (*dlm.GetLifecyclePolicyOutput, error) {
	noteCall("dlm", "GetLifecyclePolicy")
	p, err := s.find(in.PolicyId)
	return &dlm.GetLifecyclePolicyOutput{Policy: p}, err
}

func (s *shelf) UpdateLifecyclePolicy(_ context.Context, in *dlm.UpdateLifecyclePolicyInput, _ ...func(*dlm.Options)) (*dlm.UpdateLifecyclePolicyOutput, error) {
	p, err := s.find(in.PolicyId)
	if err != nil {
		return nil, err
	}
	if (p.PolicyDetails.Schedules[0].RetainRule.Count == nil) != (in.PolicyDetails.Schedules[0].RetainRule.Count == nil) {
		return nil, &dlmtypes.InvalidRequestException{Message: aws.String("the retention can't change between count and age")}
	}
	p.PolicyDetails, p.State = in.PolicyDetails, dlmtypes.GettablePolicyStateValues(in.State)
	return &dlm.UpdateLifecyclePolicyOutput{}, s.changed("UpdateLifecyclePolicy")
}

func (s *shelf) DeleteLifecyclePolicy(_ context.Context, in *dlm.DeleteLifecyclePolicyInput, _ ...func(*dlm.Options)) (*dlm.DeleteLifecyclePolicyOutput, error) {
	if _, err := s.find(in.PolicyId); err != nil {
		return nil, err
	}
	delete(s.policies, *in.PolicyId)
	return &dlm.DeleteLifecyclePolicyOutput{}, s.changed("DeleteLifecyclePolicy")
}

func (s *shelf) TagResource(_ context.Context, in *dlm.TagResourceInput, _ ...func(*dlm.Options)) (*dlm.TagResourceOutput, error) {
	_, id, _ := strings.Cut(*in.ResourceArn, "/")
	p, err := s.find(&id)
	if err != nil {
		return nil, err
	}
	p.Tags = in.Tags
	return &dlm.TagResourceOutput{}, s.changed("TagResource")
}

func (b *bench) sts() *sts.Client {
	return sts.New(sts.Options{Region: b.region, BaseEndpoint: &b.url, HTTPClient: b.http(nil), Credentials: b.keys, APIOptions: []func(*middleware.Stack) error{noteCalls}})
}

// dlm is a client of the endpoint, whether or not it has such.
func (b *bench) dlm() *dlm.Client {
	return dlm.New(dlm.Options{Region: b.region, BaseEndpoint: &b.url, HTTPClient: b.http(nil), Credentials: b.keys, APIOptions: []func(*middleware.Stack) error{noteCalls}})
}

// scheduling is a Manager with schedules: the endpoint's own, or a shelf's.
func (b *bench) scheduling() (*server.Manager, *shelf) {
	c, s := b.config(b.client), newShelf()
	c.STS, c.DLM = b.sts(), s
	if !b.isMoto() {
		c.DLM = b.dlm()
	}
	return server.New(c), s
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx := t.Context()
	m, shelf := b.scheduling()
	_, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	s, err := m.Schedule(ctx, "web", server.ScheduleOptions{Every: 24, At: "03:00", Keep: 7})
	if err != nil || s.PolicyID == "" || s.Every != 24 || s.At != "03:00" || s.Keep != 7 || s.State != "enabled" || !strings.HasSuffix(s.Role, ":role/AWSDataLifecycleManagerDefaultRole") {
		t.Fatalf("made %+v, %v", s, err)
	}
	calls := len(shelf.calls)
	again, err := m.Schedule(ctx, "web", server.ScheduleOptions{Every: 24, Keep: 7})
	if err != nil || *again != *s || len(shelf.calls) != calls {
		t.Errorf("the same again: %+v, %v; was %+v; calls %v", again, err, s, shelf.calls[calls:])
	}
	changed, err := m.Schedule(ctx, "web", server.ScheduleOptions{KeepFor: 2, KeepUnit: "WEEKS"})
	if err != nil || changed.PolicyID == s.PolicyID || changed.Every != 24 || changed.At != "03:00" || changed.Keep != 0 || changed.KeepFor != 2 || changed.KeepUnit != "weeks" {
		t.Errorf("changed to %+v, %v", changed, err)
	}
	if again, err := m.Schedule(ctx, "web", server.ScheduleOptions{Every: 12}); err != nil || again.PolicyID != changed.PolicyID || again.Every != 12 || again.KeepFor != 2 {
		t.Errorf("changed again to %+v, %v", again, err)
	} else {
		changed = again
	}
	for _, o := range []server.ScheduleOptions{{Every: 5}, {Every: 24, Cron: "0 3 * * *"}, {At: "3 o'clock"}, {Keep: 1001}, {Keep: 1, KeepFor: 1}, {Cron: "0 3"}, {Cron: "0 3 1 * 1"}} {
		if _, err := m.Schedule(ctx, "web", o); !errors.Is(err, server.ErrUsage) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	list, err := m.Schedules(ctx)
	if err != nil || len(list) != 1 || list[0] != *changed {
		t.Errorf("listed %+v, %v", list, err)
	}
	// It outlives the instance, and goes by what the root says of its disks.
	_, err = m.Terminate(ctx, "web")
	b.check(err)
	if s, err := m.ScheduleOf(ctx, "web"); err != nil || *s != *changed {
		t.Errorf("terminated: %+v, %v", s, err)
	}
	root, err := m.Get(ctx, "web")
	b.check(err)
	if got := tag(b.inventory().volumes[root.Root.VolumeID].Tags, "stead:disks"); got != "/dev/sdf "+root.Root.Device {
		t.Errorf("the root says that the disks are %q", got)
	}
	for range 2 {
		if err := m.DropSchedules(ctx, "web"); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.ScheduleOf(ctx, "web"); !errors.Is(err, server.ErrNotFound) {
		t.Errorf("ended: %v", err)
	}
}

// An endpoint without DLM is told of, with the line that does the same.
func TestScheduleWithoutDLM(t *testing.T) {
	t.Parallel()
	b := newForeignBench(t, nil)
	ctx := t.Context()
	c := b.config(b.client)
	c.DLM, c.STS = b.dlm(), b.sts()
	m := server.New(c)
	_, err := m.Create(ctx, b.faultOptions())
	b.check(err)
	for want, o := range map[string]server.ScheduleOptions{
		"0 3 * * * stead snapshot web && stead prune web --keep 7 --yes":          {Every: 24, At: "03:00", Keep: 7},
		"30 3,9,15,21 * * * stead snapshot web && stead prune web --keep 2 --yes": {Every: 6, At: "21:30", Keep: 2},
		"0 4 * * SUN stead snapshot web && stead prune web --keep-for 14d --yes":  {Cron: "0 4 * * 0", KeepFor: 2, KeepUnit: "WEEKS"},
	} {
		_, err := m.Schedule(ctx, "web", o)
		if server.KindOf(err) != server.KindUnsupported || !strings.HasSuffix(server.Remedy(err), want) {
			t.Errorf("%v\nremedy %s\nwant %s", err, server.Remedy(err), want)
		}
	}
	if err := m.DropSchedules(ctx, "web"); err != nil {
		t.Errorf("a server without schedules is purged: %v", err)
	}
}

// DLM acts as a role. That it isn't there is the usual failure on AWS.
func TestTrap16DLMRole(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	c, s := b.config(b.client), newShelf()
	c.DLM, c.STS = s, b.sts()
	m := server.New(c)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	s.fail = &dlmtypes.InvalidRequestException{Message: aws.String("Role provided does not exist or does not have sufficient permissions")}
	_, err = m.Schedule(t.Context(), "web", server.ScheduleOptions{Every: 24, Keep: 7})
	if err == nil || !strings.Contains(server.Remedy(err), "aws dlm create-default-role") {
		t.Errorf("%v; remedy %q", err, server.Remedy(err))
	}
	s.fail = &dlmtypes.LimitExceededException{Message: aws.String("too many")}
	if _, err = m.Schedule(t.Context(), "web", server.ScheduleOptions{Every: 24, Keep: 7}); server.KindOf(err) != server.KindCapacity {
		t.Errorf("a hundred policies: %v", err)
	}
	s.fail = nil
	_, err = m.Schedule(t.Context(), "web", server.ScheduleOptions{Every: 24, Keep: 7})
	b.check(err)
	for _, p := range s.policies { // DLM finds out later
		p.State, p.StatusMessage = dlmtypes.GettablePolicyStateValuesError, aws.String("the role may not CreateSnapshots")
	}
	_, err = m.ScheduleOf(t.Context(), "web")
	if err == nil || !strings.Contains(err.Error(), "may not CreateSnapshots") || server.Remedy(err) == "" {
		t.Errorf("%v; remedy %q", err, server.Remedy(err))
	}
	if err := m.DropSchedules(t.Context(), "web"); err != nil || len(s.policies) != 0 {
		t.Errorf("one that can't run can't be ended: %v", err)
	}
}

// CreateLifecyclePolicy takes no client token: it is looked for before it is
// made again, and one too many goes.
func TestTrap16DLMKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	c, s := b.config(b.client), newShelf()
	c.DLM, c.STS = s, b.sts()
	m := server.New(c)
	_, err := m.Create(t.Context(), b.faultOptions())
	b.check(err)
	s.lose = true
	_, err = m.Schedule(t.Context(), "web", server.ScheduleOptions{Every: 24, Keep: 7})
	if err != nil || len(s.policies) != 1 {
		t.Fatalf("an answer that was lost: %v, %d policies", err, len(s.policies))
	}
	steps := map[string]func(context.Context) error{
		"make": func(ctx context.Context) error {
			_, err := m.Schedule(ctx, "web", server.ScheduleOptions{Every: 12, Keep: 3})
			return err
		},
		"change": func(ctx context.Context) error {
			_, err := m.Schedule(ctx, "web", server.ScheduleOptions{Keep: 9})
			return err
		},
		"other kind": func(ctx context.Context) error {
			_, err := m.Schedule(ctx, "web", server.ScheduleOptions{KeepFor: 2, KeepUnit: "WEEKS"})
			return err
		},
		"rename": func(ctx context.Context) error { return m.RenameSchedules(ctx, "web", "db") },
		"back":   func(ctx context.Context) error { return m.RenameSchedules(ctx, "db", "web") },
		"drop":   func(ctx context.Context) error { return m.DropSchedules(ctx, "web") },
	}
	for _, name := range []string{"drop", "make", "change", "other kind", "rename", "back", "drop"} {
		for at := 1; ; at++ {
			kept := map[string]dlmtypes.LifecyclePolicy{}
			for id, p := range s.policies {
				kept[id] = *p
			}
			ctx, cancel := context.WithCancel(context.Background())
			s.at, s.seen, s.cancel = at, 0, cancel
			err := steps[name](ctx)
			fired := s.seen >= at
			s.at = 0
			cancel()
			if fired && err == nil {
				t.Fatalf("%s killed at call %d: no error", name, at)
			}
			if err := steps[name](context.Background()); err != nil {
				t.Fatalf("%s killed at call %d and repeated: %v", name, at, err)
			}
			if want := map[bool]int{true: 0, false: 1}[name == "drop"]; len(s.policies) != want {
				t.Fatalf("%s killed at call %d and repeated: %d policies", name, at, len(s.policies))
			}
			for _, p := range s.policies {
				owner := map[bool]string{true: "db", false: "web"}[name == "rename"]
				if p.Tags["stead:server"] != owner || *p.PolicyDetails.TargetTags[0].Value != owner {
					t.Fatalf("%s killed at call %d: it is %v's and targets %s", name, at, p.Tags, *p.PolicyDetails.TargetTags[0].Value)
				}
			}
			if !fired {
				break
			}
			s.policies = map[string]*dlmtypes.LifecyclePolicy{}
			for id, p := range kept {
				s.policies[id] = &p
			}
		}
	}
}
