package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// directStep is a step of a plan, as far as these tests look at it.
type directStep struct{ Service, Operation, Command, Context, Times string }

func (d *desk) steps(args ...string) []directStep {
	d.t.Helper()
	d.changes()
	var steps []directStep
	d.check(json.Unmarshal([]byte(d.must(append([]string{"--dry-run", "-o", "json"}, args...)...)), &steps))
	if sent := d.changes(); len(sent) > 0 {
		d.t.Errorf("planning sent %v", sent)
	}
	return steps
}

func commands(steps []directStep) []string {
	var lines []string
	for _, s := range steps {
		lines = append(lines, s.Command)
	}
	return lines
}

var (
	putBlock    = regexp.MustCompile(`^aws ebs put-snapshot-block `)
	directToken = regexp.MustCompile(`--client-token stead-[0-9a-f]+`)
	completion  = regexp.MustCompile(`^(aws ebs complete-snapshot).*--snapshot-id (\S+).*`)
)

// withoutPuts takes out of the calls what a plan counts or can't know.
func withoutPuts(lines []string, counted bool) []string {
	var list []string
	for _, line := range lines {
		if putBlock.MatchString(line) {
			continue
		}
		line = directToken.ReplaceAllString(line, "--client-token TOKEN")
		if !counted {
			line = completion.ReplaceAllString(line, "$1 $2")
		}
		list = append(list, line)
	}
	return alike(list)
}

// TestPlanOfBlocks plans the import of a disk, of which all is known once it is
// read, and its export, and then does both. A plan leaves no file behind.
func TestPlanOfBlocks(t *testing.T) {
	d := newDesk(t)
	dir := t.TempDir()
	disk := make([]byte, 5<<20+100) // no multiple of a block
	for _, at := range []int{0, 1 << 20, 5 << 20} {
		copy(disk[at:], "data")
	}
	file := filepath.Join(dir, "disk.raw")
	d.check(os.WriteFile(file, disk, 0o600))
	args := []string{"blocks", "import", file, "--tag", "k=v"}
	steps := d.steps(args...)
	if len(steps) != 3 || steps[1].Times != "for 3 blocks of 512 KiB" {
		t.Errorf("planned %+v, want 3 blocks between a start and a completion", steps)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("planning left %v (%v)", left, err)
	}
	plan := withoutPuts(commands(steps), true)
	if did := withoutPuts(d.done(args...), true); strings.Join(plan, "\n") != strings.Join(did, "\n") {
		t.Error(differing(plan, did))
	}

	var made struct {
		ID string `json:"snapshot_id"`
	}
	d.check(json.Unmarshal([]byte(d.must("-o", "json", "blocks", "import", file)), &made))
	out := filepath.Join(dir, "out.raw")
	steps = d.steps("blocks", "export", made.ID, out)
	if len(steps) != 1 || steps[0].Service != "stead" || !strings.Contains(steps[0].Times, "1.5 MiB moved") {
		t.Errorf("planned %+v, want a file of three blocks", steps)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("planning left %v (%v)", left, err)
	}
	_, errs, code := d.run("--dry-run", "blocks", "export", made.ID, file)
	if code == 0 || !strings.Contains(errs, "exists") {
		t.Errorf("a plan to overwrite a file: exit code %d, %s", code, errs)
	}
	d.must("blocks", "export", made.ID, out)
	got := make([]byte, len(disk))
	f, err := os.Open(out)
	d.check(err)
	defer f.Close()
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("the export has other bytes (%v)", err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 1<<30 {
		t.Errorf("the export is %v (%v), want a GiB", info, err)
	}
}

// TestPlanOfMoveToContext plans a move to another context and then does it: but
// for the number of blocks, all calls on both sides are as planned.
func TestPlanOfMoveToContext(t *testing.T) {
	d := newDesk(t)
	var there struct {
		URL string `json:"endpoint_url"`
	}
	d.check(json.Unmarshal([]byte(d.must("-o", "json", "context", "show", "there")), &there))
	d.must("context", "create", "west", "--endpoint-url", there.URL, "--region", "us-west-2")
	d.must("create", "web", "--image", d.env["IMAGE"], "--data", "1", "--wait", "running")
	move := []string{"move", "web", "--to", "west", "--yes", "--wait", "running"}
	contexts := map[string]string{}
	steps := d.steps(move...)
	for _, s := range steps {
		contexts[s.Operation] = s.Context
		if s.Operation == "PutSnapshotBlock" && !strings.Contains(s.Times, "each block") {
			t.Errorf("planned %+v, though nobody knows how many", s)
		}
	}
	if contexts["RunInstances"] != "west" || contexts["StartSnapshot"] != "west" || contexts["StopInstances"] != "" {
		t.Errorf("planned in %v", contexts)
	}
	plan := withoutPuts(commands(steps), false)
	did := withoutPuts(d.done(move...), false)
	if strings.Join(plan, "\n") != strings.Join(did, "\n") {
		t.Error(differing(plan, did))
	}
	d.same("move", "web", "--to", "west", "--release", "--yes")
}
