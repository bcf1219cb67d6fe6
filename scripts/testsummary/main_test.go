package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const pass = `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA/sub"}
{"Action":"pass","Package":"p"}
`
	const skip = `{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:3: no QEMU\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"without tests"}
`
	const fail = `{"Action":"output","Package":"q","Test":"TestC","Output":"    c_test.go:9: wrong\n"}
{"Action":"fail","Package":"q","Test":"TestC"}
{"Action":"fail","Package":"q"}
`
	const build = `{"ImportPath":"r [r.test]","Action":"build-output","Output":"r.go:1: syntax error\n"}
{"ImportPath":"r [r.test]","Action":"build-fail"}
{"Action":"fail","Package":"r","FailedBuild":"r [r.test]"}
`
	for _, c := range []struct {
		name, events, last string
		says               string
		ok, strict         bool
	}{
		{"all pass", pass, "1 passed, 0 failed, 0 skipped", "", true, true},
		{"a skip", pass + skip, "1 passed, 0 failed, 1 skipped", "SKIPPED p TestB: b_test.go:3: no QEMU", true, false},
		{"a failure", pass + fail, "1 passed, 1 failed, 0 skipped", "c_test.go:9: wrong", false, false},
		{"no build", pass + build, "1 passed, 1 failed, 0 skipped", "syntax error", false, false},
		{"nothing ran", "", "0 passed, 0 failed, 0 skipped", "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := read(strings.NewReader(c.events))
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			s.print(&out)
			if !strings.HasSuffix(out.String(), c.last+"\n") || !strings.Contains(out.String(), c.says) {
				t.Errorf("printed\n%s\nwant %q and %q at the end", out.String(), c.says, c.last)
			}
			if s.ok(false) != c.ok || s.ok(true) != c.strict {
				t.Errorf("ok %v, strict %v; want %v, %v", s.ok(false), s.ok(true), c.ok, c.strict)
			}
		})
	}
	if _, err := read(strings.NewReader("FAIL\n")); err == nil {
		t.Error("plain text was taken for events")
	}
}
