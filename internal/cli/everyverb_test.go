package cli_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/cli"
)

// exampleLines are the command lines of an example, one a line, up to what
// their output goes on to.
func exampleLines(example string) []string {
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(example, "\\\n", " ")) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " | jq ")
		if strings.Contains(line, "' ") || strings.HasSuffix(line, "'") { // what is in quotes is the command's own
			lines = append(lines, line)
			continue
		}
		for part := range strings.SplitSeq(line, " && ") {
			part, _, _ = strings.Cut(part, " | ")
			if strings.HasPrefix(part, "stead ") {
				lines = append(lines, part)
			}
		}
	}
	return lines
}

// words splits a line as a shell does.
func words(t *testing.T, line string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `stead() { printf '%s\0' "$@"; }; `+line).Output()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// TestExamplesMakeSense runs every example of the help as a plan: whatever
// their servers and disks are, no line is one that makes no sense.
func TestExamplesMakeSense(t *testing.T) {
	d := newDesk(t)
	d.must("create", "web", "--image", d.env["IMAGE"], "--data", "1", "--wait", "running")
	d.must("schedule", "web", "--every", "24h", "--keep", "7")
	known := []string{
		"stead image import", // of a file that isn't here, or from the internet
		"stead cp",           // likewise
	}
	cli.EachCommand(func(_, _, example string) {
		for _, line := range exampleLines(example) {
			if strings.HasPrefix(line, "stead cloud") || strings.HasPrefix(line, "stead context") || slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(line, k) }) {
				continue
			}
			args := words(t, line)
			args = append([]string{"--dry-run", "--timeout", "2s"}, args...)
			if !slices.Contains(args, "--") {
				args = append(args, "--timeout", "2s") // whatever the example says
			}
			_, errs, code := d.run(args...)
			if code == 2 && !strings.Contains(errs, "no such file") && !strings.Contains(errs, "import the stream: it is empty") {
				t.Errorf("%s: exit code %d\n%s", line, code, errs)
			}
		}
	})
}

// TestNamesAreCompleted wants something of the cloud offered for whatever a
// command wants a name of.
func TestNamesAreCompleted(t *testing.T) {
	d := newDesk(t)
	d.must("create", "web", "--image", d.env["IMAGE"], "--data", "1", "--wait", "running")
	d.must("stop", "web")
	d.must("snapshot", "web")
	d.must("ec2", "run", d.env["IMAGE"], "-t", "t3.micro") // no server's
	offers := map[string]string{
		"NAME": "web", "SERVER": "web", "VOLUME": "vol-", "VOLUME...": "vol-", "SET...": "Z-", "AMI": "ami-", "AMI|NAME": "ami-", "AMI|SERVER": "ami-",
		"INSTANCE": "i-", "CONTEXT": "there",
	}
	// What is named anew isn't there to be offered.
	anew := []string{"stead create", "stead context create", "stead image build"}
	cli.EachCommand(func(path, use, _ string) {
		var before []string
		for _, word := range strings.Fields(use)[1:] {
			want, named := offers[strings.Trim(word, "[]")]
			if !named || slices.Contains(anew, path) {
				break
			}
			if path == "stead adopt" && word == "NAME" {
				before = append(before, "new")
				continue
			}
			args := append(append([]string{"__complete"}, strings.Fields(path)[1:]...), before...)
			out, _, _ := d.run(append(args, "")...)
			if strings.HasPrefix(path, "stead context") {
				want = "there"
			}
			if !strings.Contains(out, want) {
				t.Errorf("%s %s: for %s it offers\n%s", path, strings.Join(before, " "), word, out)
			}
			first, _, _ := strings.Cut(out, "\t")
			first, _, _ = strings.Cut(first, "\n")
			before = append(before, first)
		}
	})
}
