package cli

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

func TestRootScript(t *testing.T) {
	shells := [][]string{{"sh", "-s"}}
	if _, err := exec.LookPath("busybox"); err == nil {
		shells = append(shells, []string{"busybox", "sh", "-s"})
	}
	run := func(shell []string, script string) string {
		cmd := exec.Command(shell[0], shell[1:]...)
		cmd.Stdin = strings.NewReader(script)
		out, _ := cmd.Output() // a script that was cut off fails
		return string(out)
	}
	for _, shell := range shells {
		whole := rootScript("cat\necho one\ncat <<'E'\ntwo\nE\n(exit 3) || echo three # end")
		if got := run(shell, whole); got != "one\ntwo\nthree\n" {
			t.Errorf("%v: the script wrote %q", shell, got)
		}
		for cut := range len(whole) - len("} </dev/null\n") {
			if got := run(shell, whole[:cut]); got != "" {
				t.Errorf("%v: cut off after %d bytes the script wrote %q", shell, cut, got)
			}
		}
		if got := run(shell, rootScript("# nothing")+"echo $?\n"); got != "0\n" {
			t.Errorf("%v: an empty script gave %q", shell, got)
		}
	}
}

func TestBounds(t *testing.T) {
	b := &bounded{left: 10}
	for range 3 {
		if n, err := b.Write([]byte("12345")); n != 5 || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
	}
	if b.String() != "1234512345" || b.left >= 0 {
		t.Errorf("kept %q, left %d", b.String(), b.left)
	}
	l := &lastWords{max: 12}
	for _, s := range []string{"lost\n", "one\n\n", "  two\n"} {
		_, _ = l.Write([]byte(s))
	}
	if got := l.String(); got != "one; two" {
		t.Errorf("last words %q", got)
	}
}

func TestScriptFailed(t *testing.T) {
	for _, tt := range []struct {
		user         string
		code         int
		said         string
		want, remedy string
	}{
		{"admin", 1, "mkfs.xfs isn't installed", "exit status 1: mkfs.xfs isn't installed", "stead ssh web"},
		{"admin", 1, "sudo: a password is required", "admin can't become root there without a password", `stead ssh -t web -- "echo 'admin ALL=(ALL) NOPASSWD:ALL' | sudo tee /etc/sudoers.d/90-stead"`},
		{"admin", 127, "bash: line 1: sudo: command not found", "sudo isn't installed", "stead serial web"},
		{"root", 1, "sudo: it isn't asked", "exit status 1: sudo: it isn't asked", "stead ssh web"},
		{"root", 3, "", "exit status 3", "stead ssh web"},
	} {
		err := scriptFailed("web", tt.user, tt.code, tt.said)
		if !strings.Contains(err.Error(), tt.want) || !strings.Contains(server.Remedy(err), tt.remedy) {
			t.Errorf("%q: %v, remedy %s", tt.said, err, server.Remedy(err))
		}
	}
}
