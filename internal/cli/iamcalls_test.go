package cli_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/awscli"
	"github.com/steadcloud/stead/internal/blocks"
	"github.com/steadcloud/stead/internal/server"
)

// verbCalls lists the actions that the verbs below send and the tests of
// internal/server don't: their endpoint hasn't got them, or they need an answer
// that it never gives.
const verbCalls = "testdata/calls.txt"

// sendable are the actions that internal/server can send, by the AWS command
// that does the same.
func sendable() map[string]string {
	all := map[string]string{}
	for service, api := range map[string]reflect.Type{
		"ec2": reflect.TypeFor[server.EC2](), "ssm": reflect.TypeFor[server.SSM](),
		"dlm": reflect.TypeFor[server.DLM](), "rbin": reflect.TypeFor[server.RBin](), "sts": reflect.TypeFor[server.STS](),
		"ebs": reflect.TypeFor[blocks.API](),
	} {
		for k := range api.NumMethod() {
			name := api.Method(k).Name
			all["aws "+service+" "+awscli.Kebab(name)] = service + ":" + name
		}
	}
	return all
}

// TestEveryCallIsMade holds internal/server to calls that something makes: the
// policy allows no others.
func TestEveryCallIsMade(t *testing.T) {
	files, err := filepath.Glob("../server/*.go")
	if err != nil {
		t.Fatal(err)
	}
	prices, err := filepath.Glob("../price/*.go") // which gets the client handed on
	if err != nil {
		t.Fatal(err)
	}
	direct, err := filepath.Glob("../blocks/*.go") // likewise
	if err != nil {
		t.Fatal(err)
	}
	files = slices.Concat(files, prices, direct)
	var code strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(file, "_test.go") && filepath.Base(file) != "api.go" {
			code.Write(text)
		}
	}
	for _, action := range sendable() {
		_, name, _ := strings.Cut(action, ":")
		if !strings.Contains(code.String(), "."+name+"(") && !strings.Contains(code.String(), "New"+name+"Paginator(") {
			t.Errorf("nothing in internal/server calls %s: take it out of its interface", action)
		}
	}
}

// listed reads a list of actions.
func listed(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// TestIAMCallsOfVerbs records what the policy needs beyond the calls of the
// tests of internal/server.
func TestIAMCallsOfVerbs(t *testing.T) {
	d := newDesk(t)
	image, can := d.env["IMAGE"], sendable()
	var sent []string
	explained := func(args ...string) {
		t.Helper()
		_, errs, code := d.run(append([]string{"--explain=all"}, args...)...)
		if code != 0 {
			t.Fatalf("stead %s: exit code %d\n%s", strings.Join(args, " "), code, errs)
		}
		for line := range strings.Lines(errs) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "aws" {
				sent = append(sent, can[strings.Join(f[:3], " ")])
			}
		}
	}
	local := func(args ...string) { t.Helper(); explained(append([]string{"--context", "local"}, args...)...) }
	local("create", "web", "--image", image, "--wait", "running")
	local("serial", "web")
	local("reboot", "web", "--wait", "running")
	local("terminate", "web", "--yes")
	local("rescue", "web", "--by", "replace-root", "--wait", "running")
	local("bin", "--days", "7")
	local("bin", "--days", "14")
	local("snapshot", "web")
	ids := regexp.MustCompile(`(vol|snap)-[0-9a-f]{17}`)
	sets, _, _ := d.run("--context", "local", "snapshots", "web", "-o", "json")
	local(append([]string{"bin", "restore", image}, ids.FindAllString(sets, 2)...)...) // they are there
	local("bin", "--off")
	local("create", "cheap", "--image", image, "--spot", "--wait", "running")
	local("terminate", "cheap", "--yes")
	d.tamper = func(_, answer string) (string, string) {
		return "", strings.ReplaceAll(answer, "<status>ok</status>", "<status>impaired</status>")
	}
	explained("show", "web")
	// An image of somebody else's that may not be copied is launched and imaged.
	theirs := regexp.MustCompile(`(?s)<snapshotSet>.*</snapshotSet>`)
	d.tamper = func(action, answer string) (string, string) {
		switch action {
		case "CopyImage":
			return "UnauthorizedOperation", ""
		case "DescribeSnapshots":
			if answer != "" && theirs != nil { // none of them is the caller's own
				answer, theirs = theirs.ReplaceAllString(answer, ""), nil
			}
		}
		return "", answer
	}
	explained("image", "durable", image, "--name", "of a machine")
	known := listed(t, serverCalls)
	slices.Sort(sent)
	sent = slices.DeleteFunc(slices.Compact(sent), func(a string) bool { return a == "" || slices.Contains(known, a) })
	if *updatePolicy {
		if err := os.WriteFile(verbCalls, []byte(strings.Join(sent, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have := listed(t, verbCalls); !slices.Equal(have, sent) {
		t.Errorf("%s has %v, and the verbs send %v: go test ./internal/cli -run TestIAM -update", verbCalls, have, sent)
	}
}
