package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

// TestExitCodesDocumented compares the page with the table that the help is
// made of, and each kind of failure with both.
func TestExitCodesDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	listed := map[int]bool{}
	for _, m := range exitMeanings() {
		listed[m.code] = true
		fmt.Fprintln(&table, strings.TrimRight(fmt.Sprintf("| %d | %s | %s", m.code, m.meaning, m.help), " ")+" |")
	}
	if !strings.Contains(string(page), table.String()) {
		t.Errorf("docs/exit-codes.md hasn't got this table:\n%s", table.String())
	}
	for _, kind := range []server.Kind{
		server.KindFailed, server.KindUsage, server.KindAuth, server.KindNotFound, server.KindExists, server.KindProtected,
		server.KindTimeout, server.KindInterrupted, server.KindCapacity, server.KindPartial, server.KindUnsupported,
	} {
		if code := exitCode(kind); code == exitOK || !listed[code] {
			t.Errorf("kind %s has exit code %d, which isn't documented", kind, code)
		}
	}
}

// TestEveryCommandHasAnExample walks the help.
func TestEveryCommandHasAnExample(t *testing.T) {
	each(newRoot(&App{Getenv: func(string) string { return "" }}), func(path, example string) {
		if example == "" {
			t.Errorf("`%s` has no example in its help", path)
		}
	})
}
