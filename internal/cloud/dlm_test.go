package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dlm"
	dlmtypes "github.com/aws/aws-sdk-go-v2/service/dlm/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// clock is a time that moves when it is told to.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

// SignHTTP signs at the clock's time.
func (c *clock) SignHTTP(ctx context.Context, creds aws.Credentials, r *http.Request, hash, service, region string, _ time.Time, o ...func(*v4.SignerOptions)) error {
	return v4.NewSigner().SignHTTP(ctx, creds, r, hash, service, region, c.now(), o...)
}

// timed is a cloud whose time is a clock's, and clients of it.
type timed struct {
	*clock
	t     *testing.T
	cloud *Cloud
	ec2   *ec2.Client
	dlm   *dlm.Client
	end   func() // of the daemon
}

// openTimed opens the cloud in a folder; end is the end of its daemon.
func openTimed(t *testing.T, dir Dir, k *clock) *timed {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := Open(ctx, Options{
		Dir: dir, Account: DefaultAccount, Keys: testKeys, Now: k.now, Log: testLog(t, slog.LevelInfo),
	}, noMachines{dir.Volumes()})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	srv := httptest.NewServer(c)
	var once sync.Once
	end := func() {
		once.Do(func() {
			srv.Close()
			cancel()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(end)
	keys := credentials.NewStaticCredentialsProvider(testKeys.AccessKeyID, testKeys.SecretAccessKey, "")
	return &timed{
		clock: k, t: t, cloud: c, end: end,
		ec2: ec2.New(ec2.Options{Region: "us-east-1", BaseEndpoint: &srv.URL, RetryMaxAttempts: 1, HTTPClient: steadyHTTP{}, Credentials: keys, HTTPSignerV4: k}),
		dlm: dlm.New(dlm.Options{Region: "us-east-1", BaseEndpoint: &srv.URL, RetryMaxAttempts: 1, HTTPClient: steadyHTTP{}, Credentials: keys, HTTPSignerV4: k}),
	}
}

const testRole = "arn:aws:iam::000000000000:role/AWSDataLifecycleManagerDefaultRole"

// everySix is a policy on instances tagged app=web: at 03:00 and each six hours
// from there, with two kept.
func everySix(target dlmtypes.ResourceTypeValues) *dlm.CreateLifecyclePolicyInput {
	return &dlm.CreateLifecyclePolicyInput{
		Description: aws.String("web every six"), ExecutionRoleArn: aws.String(testRole), State: dlmtypes.SettablePolicyStateValuesEnabled,
		Tags: map[string]string{"who": "me"},
		PolicyDetails: &dlmtypes.PolicyDetails{
			ResourceTypes: []dlmtypes.ResourceTypeValues{target}, TargetTags: []dlmtypes.Tag{{Key: aws.String("app"), Value: aws.String("web")}},
			Schedules: []dlmtypes.Schedule{{
				Name:       aws.String("six"),
				CreateRule: &dlmtypes.CreateRule{Interval: aws.Int32(6), IntervalUnit: dlmtypes.IntervalUnitValuesHours, Times: []string{"03:00"}},
				RetainRule: &dlmtypes.RetainRule{Count: aws.Int32(2)}, CopyTags: aws.Bool(true),
				TagsToAdd: []dlmtypes.Tag{{Key: aws.String("made"), Value: aws.String("by schedule")}},
			}},
		},
	}
}

func (e *timed) policy(in *dlm.CreateLifecyclePolicyInput) string {
	e.t.Helper()
	out, err := e.dlm.CreateLifecyclePolicy(e.t.Context(), in)
	if err != nil {
		e.t.Fatal(err)
	}
	return *out.PolicyId
}

func TestLifecyclePolicies(t *testing.T) {
	e := openTimed(t, Dir(t.TempDir()), &clock{at: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)})
	ctx := t.Context()
	in := everySix(dlmtypes.ResourceTypeValuesInstance)
	id := e.policy(in)
	got, err := e.dlm.GetLifecyclePolicy(ctx, &dlm.GetLifecyclePolicyInput{PolicyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	p := got.Policy
	s := p.PolicyDetails.Schedules[0]
	if *p.PolicyArn != "arn:aws:dlm:us-east-1:000000000000:policy/"+id || p.State != dlmtypes.GettablePolicyStateValuesEnabled || p.Tags["who"] != "me" ||
		!p.DateCreated.Equal(e.now()) || *s.Name != "six" || *s.CreateRule.Interval != 6 || s.CreateRule.Times[0] != "03:00" || *s.RetainRule.Count != 2 || !*s.CopyTags ||
		*s.TagsToAdd[0].Value != "by schedule" || p.PolicyDetails.ResourceTypes[0] != dlmtypes.ResourceTypeValuesInstance {
		t.Errorf("it is %+v with %+v", p, s)
	}
	e.updates(id, p.PolicyArn)
	if _, err := e.dlm.DeleteLifecyclePolicy(ctx, &dlm.DeleteLifecyclePolicyInput{PolicyId: &id}); err != nil {
		t.Fatal(err)
	}
	_, err = e.dlm.GetLifecyclePolicy(ctx, &dlm.GetLifecyclePolicyInput{PolicyId: &id})
	var gone *dlmtypes.ResourceNotFoundException
	if !errors.As(err, &gone) {
		t.Errorf("deleted: %v", err)
	}
}

func (e *timed) updates(id string, arn *string) {
	t, ctx := e.t, e.t.Context()
	t.Helper()
	_, err := e.dlm.UpdateLifecyclePolicy(ctx, &dlm.UpdateLifecyclePolicyInput{
		PolicyId: &id, State: dlmtypes.SettablePolicyStateValuesDisabled,
		PolicyDetails: &dlmtypes.PolicyDetails{Schedules: []dlmtypes.Schedule{{
			Name: aws.String("cron"), CreateRule: &dlmtypes.CreateRule{CronExpression: aws.String("cron(0 3 ? * SUN *)")},
			RetainRule: &dlmtypes.RetainRule{Interval: aws.Int32(2), IntervalUnit: dlmtypes.RetentionIntervalUnitValuesMonths},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.dlm.TagResource(ctx, &dlm.TagResourceInput{ResourceArn: arn, Tags: map[string]string{"a": "1", "b": "2"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.dlm.UntagResource(ctx, &dlm.UntagResourceInput{ResourceArn: arn, TagKeys: []string{"a", "who"}}); err != nil {
		t.Fatal(err)
	}
	tags, err := e.dlm.ListTagsForResource(ctx, &dlm.ListTagsForResourceInput{ResourceArn: arn})
	if err != nil || len(tags.Tags) != 1 || tags.Tags["b"] != "2" {
		t.Errorf("tags are %v, %v", tags, err)
	}
	got, err := e.dlm.GetLifecyclePolicy(ctx, &dlm.GetLifecyclePolicyInput{PolicyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	s := got.Policy.PolicyDetails.Schedules[0]
	if got.Policy.State != dlmtypes.GettablePolicyStateValuesDisabled || *s.CreateRule.CronExpression != "cron(0 3 ? * SUN *)" || *s.RetainRule.Interval != 2 ||
		*got.Policy.PolicyDetails.TargetTags[0].Key != "app" {
		t.Errorf("updated it is %+v with %+v", got.Policy, s)
	}
	for name, tt := range map[string]struct {
		in   dlm.GetLifecyclePoliciesInput
		want int
	}{
		"all": {dlm.GetLifecyclePoliciesInput{}, 1}, "by ID": {dlm.GetLifecyclePoliciesInput{PolicyIds: []string{id}}, 1},
		"by target": {dlm.GetLifecyclePoliciesInput{TargetTags: []string{"app=web"}}, 1}, "by another": {dlm.GetLifecyclePoliciesInput{TargetTags: []string{"app=db"}}, 0},
		"by state": {dlm.GetLifecyclePoliciesInput{State: dlmtypes.GettablePolicyStateValuesEnabled}, 0},
		"by type":  {dlm.GetLifecyclePoliciesInput{ResourceTypes: []dlmtypes.ResourceTypeValues{dlmtypes.ResourceTypeValuesInstance}}, 1},
	} {
		out, err := e.dlm.GetLifecyclePolicies(ctx, &tt.in)
		if err != nil || len(out.Policies) != tt.want {
			t.Errorf("listed %s: %+v, %v", name, out, err)
		}
	}
}

func TestLifecyclePolicyRefusals(t *testing.T) {
	e := openTimed(t, Dir(t.TempDir()), &clock{at: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)})
	for name, change := range map[string]func(*dlm.CreateLifecyclePolicyInput, *dlmtypes.Schedule){
		"description": func(in *dlm.CreateLifecyclePolicyInput, _ *dlmtypes.Schedule) { in.Description = aws.String("a: b") },
		"role":        func(in *dlm.CreateLifecyclePolicyInput, _ *dlmtypes.Schedule) { in.ExecutionRoleArn = aws.String("me") },
		"interval":    func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) { s.CreateRule.Interval = aws.Int32(5) },
		"time":        func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) { s.CreateRule.Times = []string{"24:00"} },
		"both": func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) {
			s.CreateRule.CronExpression = aws.String("cron(0 3 * * ? *)")
		},
		"cron": func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) {
			s.CreateRule = &dlmtypes.CreateRule{CronExpression: aws.String("cron(0/10 3 * * ? *)")}
		},
		"count": func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) { s.RetainRule.Count = aws.Int32(1001) },
		"keep": func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) {
			s.RetainRule = &dlmtypes.RetainRule{Interval: aws.Int32(101), IntervalUnit: dlmtypes.RetentionIntervalUnitValuesYears}
		},
		"copies": func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) {
			s.CrossRegionCopyRules = []dlmtypes.CrossRegionCopyRule{{Encrypted: aws.Bool(false), Target: aws.String("us-east-2")}}
		},
		"fast": func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) {
			s.FastRestoreRule = &dlmtypes.FastRestoreRule{Count: aws.Int32(1)}
		},
		"reserved": func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) {
			s.TagsToAdd[0].Key = aws.String("aws:x")
		},
		"target": func(in *dlm.CreateLifecyclePolicyInput, _ *dlmtypes.Schedule) {
			in.PolicyDetails.TargetTags = []dlmtypes.Tag{}
		},
		"images": func(in *dlm.CreateLifecyclePolicyInput, _ *dlmtypes.Schedule) {
			in.PolicyDetails.PolicyType = dlmtypes.PolicyTypeValuesImageManagement
		},
		"default": func(in *dlm.CreateLifecyclePolicyInput, _ *dlmtypes.Schedule) {
			in.DefaultPolicy = dlmtypes.DefaultPolicyTypeValuesVolume
		},
		"five": func(in *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) {
			for _, name := range []string{"a", "b", "c", "d"} {
				another := *s
				another.Name = aws.String(name)
				in.PolicyDetails.Schedules = append(in.PolicyDetails.Schedules, another)
			}
		},
		"variable": func(_ *dlm.CreateLifecyclePolicyInput, s *dlmtypes.Schedule) {
			s.VariableTags = []dlmtypes.Tag{{Key: aws.String("k"), Value: aws.String("v")}}
		},
	} {
		in := everySix(dlmtypes.ResourceTypeValuesInstance)
		change(in, &in.PolicyDetails.Schedules[0])
		_, err := e.dlm.CreateLifecyclePolicy(t.Context(), in)
		var invalid *dlmtypes.InvalidRequestException
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range maxPolicies {
		e.policy(everySix(dlmtypes.ResourceTypeValuesVolume))
	}
	_, err := e.dlm.CreateLifecyclePolicy(t.Context(), everySix(dlmtypes.ResourceTypeValuesVolume))
	var limit *dlmtypes.LimitExceededException
	if !errors.As(err, &limit) {
		t.Errorf("a policy too many: %v", err)
	}
}

// The same through the command line that people have.
func TestLifecyclePoliciesByAWSCLI(t *testing.T) {
	path := "/usr/bin/aws"
	if _, err := os.Stat(path); err != nil {
		t.Skip("no aws-cli")
	}
	_, client := newTestCloud(t)
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(path, append(args, "--endpoint-url", *client.Options().BaseEndpoint, "--region", "us-east-1", "--output", "json")...)
		cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+testKeys.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+testKeys.SecretAccessKey, "AWS_EC2_METADATA_DISABLED=true")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	var made struct {
		PolicyID string `json:"PolicyId"`
	}
	if err := json.Unmarshal([]byte(run("dlm", "create-lifecycle-policy", "--description", "daily", "--state", "ENABLED", "--execution-role-arn", testRole,
		"--policy-details", `{"ResourceTypes":["VOLUME"],"TargetTags":[{"Key":"app","Value":"web"}],"Schedules":[{"Name":"d","CreateRule":{"Interval":24,"IntervalUnit":"HOURS","Times":["03:00"]},"RetainRule":{"Count":7}}]}`)), &made); err != nil {
		t.Fatal(err)
	}
	if out := run("dlm", "get-lifecycle-policy", "--policy-id", made.PolicyID); !strings.Contains(out, `"DateCreated": "2`) || !strings.Contains(out, `"03:00"`) {
		t.Errorf("it is %s", out)
	}
	run("dlm", "tag-resource", "--resource-arn", "arn:aws:dlm:us-east-1:000000000000:policy/"+made.PolicyID, "--tags", "a=b")
	if out := run("dlm", "get-lifecycle-policies", "--target-tags", "app=web"); !strings.Contains(out, made.PolicyID) || !strings.Contains(out, `"a": "b"`) {
		t.Errorf("listed %s", out)
	}
}

// snapshots lists what policies took, oldest first.
func (e *timed) snapshots() []types.Snapshot {
	e.t.Helper()
	out, err := e.ec2.DescribeSnapshots(e.t.Context(), &ec2.DescribeSnapshotsInput{Filters: []types.Filter{{Name: aws.String("tag-key"), Values: []string{tagPolicyID}}}})
	if err != nil {
		e.t.Fatal(err)
	}
	slices.SortFunc(out.Snapshots, func(a, b types.Snapshot) int { return a.StartTime.Compare(*b.StartTime) })
	return out.Snapshots
}

// turn sets the clock and has the policies looked at, until that is done.
func (e *timed) turn(at time.Time) {
	e.t.Helper()
	e.set(at)
	e.settleDown()
}

func (e *timed) settleDown() {
	e.t.Helper()
	eventually(e.t, "the policies are at rest", func() bool {
		var all []*state.LifecyclePolicy
		if err := e.cloud.db.View(func(tx *state.Tx) (err error) {
			all, err = state.All[state.LifecyclePolicy](tx)
			return err
		}); err != nil {
			e.t.Fatal(err)
		}
		rest := true
		for _, p := range all {
			for _, s := range p.Schedules {
				r, err := rhythmOf(&s)
				if err != nil {
					e.t.Fatal(err)
				}
				rest = rest && s.Due.IsZero() && !s.Untidy && latestDue(r, s.Handled, e.now()).IsZero()
			}
			if !rest {
				e.cloud.work.kick(jobOf(p))
			}
		}
		return rest
	})
}
