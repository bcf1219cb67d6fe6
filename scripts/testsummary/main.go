// Testsummary reads what go test -json prints and tells what a person wants to
// know of it: the output of what failed, each skipped test with its reason, and
// a closing line with the counts. It fails when a test failed, when a package
// didn't build, when no test ran, and, with STEAD_STRICT=1, when one was
// skipped.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is a line of go test -json.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

// name is a test with its package, or a package.
type name struct{ pkg, test string }

func (n name) String() string {
	if n.test == "" {
		return n.pkg
	}
	return n.pkg + " " + n.test
}

// summary is what the events tell.
type summary struct {
	passed          int
	failed, skipped []name
	output          map[name][]string
}

func main() {
	s, err := read(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(2)
	}
	s.print(os.Stdout)
	if !s.ok(os.Getenv("STEAD_STRICT") == "1") {
		os.Exit(1)
	}
}

// read takes in all events. A test counts with its subtests as one, unless a
// subtest was skipped or failed: those are named.
func read(r io.Reader) (*summary, error) {
	s := &summary{output: map[name][]string{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("not from go test -json: %q", lines.Text())
		}
		s.add(e)
	}
	return s, lines.Err()
}

func (s *summary) add(e event) {
	n := name{e.Package, e.Test}
	switch e.Action {
	case "output":
		s.output[n] = append(s.output[n], e.Output)
	case "build-output":
		n.pkg, _, _ = strings.Cut(e.ImportPath, " ")
		s.output[n] = append(s.output[n], e.Output)
	case "pass":
		if e.Test != "" && !strings.Contains(e.Test, "/") {
			s.passed++
		}
		delete(s.output, n)
	case "skip":
		if e.Test != "" {
			s.skipped = append(s.skipped, n)
		}
	case "fail":
		s.failed = append(s.failed, n)
	}
}

func (s *summary) print(w io.Writer) {
	for _, n := range s.failed {
		fmt.Fprintf(w, "\n=== FAILED %s\n%s", n, strings.Join(s.output[n], ""))
	}
	for _, n := range s.skipped {
		fmt.Fprintf(w, "SKIPPED %s: %s\n", n, s.reason(n))
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", s.passed, s.failures(), len(s.skipped))
}

// failures counts the failed tests, and the packages that failed with none.
func (s *summary) failures() int {
	tests := map[string]bool{}
	count := 0
	for _, n := range s.failed {
		if n.test != "" {
			tests[n.pkg] = true
			count++
		}
	}
	for _, n := range s.failed {
		if n.test == "" && !tests[n.pkg] {
			count++
		}
	}
	return count
}

// reason is what a skipped test said last.
func (s *summary) reason(n name) string {
	lines := s.output[n]
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "no reason given"
}

// ok tells whether the run is a success.
func (s *summary) ok(strict bool) bool {
	return s.passed > 0 && len(s.failed) == 0 && (!strict || len(s.skipped) == 0)
}
