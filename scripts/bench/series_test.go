package main

import (
	"math"
	"strings"
	"testing"
)

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		s    series
		want float64
	}{
		{series{3}, 3},
		{series{9, 1, 5}, 5},
		{series{4, 1, 2, 100}, 3},
	} {
		if got := c.s.median(); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.s, got, c.want)
		}
	}
	if got := (series{}).median(); !math.IsNaN(got) {
		t.Errorf("median of nothing: %v", got)
	}
	if got := (series{2, 9, 4}).show(seconds); got != "4.00 s (2.00–9.00)" {
		t.Errorf("shown as %q", got)
	}
}

func TestRatioIsOfRounds(t *testing.T) {
	// The second round was slow for both sides: the ratio must not see it.
	r := row{ours: series{2, 20, 2}, theirs: series{1, 10, 1}, target: ratioAtMost(2)}
	if got := r.ratio(); got.min() != 2 || got.max() != 2 {
		t.Errorf("ratios %v, want 2 in every round", got)
	}
	if got := r.verdict(); got != "met" {
		t.Errorf("verdict %q at the limit", got)
	}
}

func TestRatioOfSpeeds(t *testing.T) {
	r := row{ours: series{2, 4}, theirs: series{6, 12}, unit: seconds, target: ratioAtLeast(3), speed: true}
	if got := r.ratio().show(r.ratioUnit()); got != "3.00 × as fast (3.00–3.00)" {
		t.Errorf("shown as %q", got)
	}
	if got := r.target.in(r.unit, r.ratioUnit()) + " " + r.verdict(); got != "≥ 3 × as fast met" {
		t.Errorf("target %q", got)
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		r    row
		want string
	}{
		{row{ours: series{50}, target: atMost(100)}, "met"},
		{row{ours: series{150}, target: atMost(100)}, "**not met**"},
		{row{ours: series{90}, theirs: series{100}, target: ratioAtLeast(0.95)}, "**not met**"},
		{row{ours: series{99}, theirs: series{100}, target: ratioAtLeast(0.95)}, "met"},
		{row{ours: series{99}, target: ratioAtLeast(0.95)}, "not measured"},
		{row{ours: series{99}}, ""},
	} {
		if got := c.r.verdict(); got != c.want {
			t.Errorf("%v of %v with %+v: %q, want %q", c.r.ours, c.r.theirs, c.r.target, got, c.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0.123: "0.12", 9.99: "9.99", 12.34: "12.3", 123.4: "123", 1234: "1,234", 1234567: "1,234,567", -1234: "-1,234", math.NaN(): "–",
	} {
		if got := number(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}

func TestSplice(t *testing.T) {
	begin, end := markers("boot")
	doc, err := splice("# Benchmarks\n", "boot", "old\n")
	if err != nil || doc != "# Benchmarks\n\n"+begin+"old\n"+end {
		t.Fatalf("added: %q, %v", doc, err)
	}
	doc += "By hand.\n"
	doc, err = splice(doc, "boot", "new\n")
	if err != nil || doc != "# Benchmarks\n\n"+begin+"new\n"+end+"By hand.\n" {
		t.Fatalf("replaced: %q, %v", doc, err)
	}
	if _, err := splice(strings.ReplaceAll(doc, end, ""), "boot", "newer\n"); err == nil {
		t.Error("a section without an end was replaced")
	}
}

func TestReadFio(t *testing.T) {
	report := `fio: a warning
{"fio version": "fio-3.33", "jobs": [
 {"jobname": "randread", "read": {"iops": 1200.5}, "write": {"iops": 0}},
 {"jobname": "randwrite", "read": {"iops": 0}, "write": {"iops": 800}},
 {"jobname": "read", "read": {"iops": 300}, "write": {"iops": 0}},
 {"jobname": "write", "read": {"iops": 0}, "write": {"iops": 200}}]}`
	got, err := readFio(report)
	if err != nil {
		t.Fatal(err)
	}
	if got["randread"] != 1200.5 || got["randwrite"] != 800 || got["read"] != 300 || got["write"] != 200 {
		t.Errorf("read %v", got)
	}
	for _, bad := range []string{"", "fio: failed", `{"jobs": []}`} {
		if _, err := readFio(bad); err == nil {
			t.Errorf("%q was taken for a report", bad)
		}
	}
}
