package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// series is what the repeats of a measurement gave, in the order of the
// rounds.
type series []float64

// median is the middle value, or the mean of the middle two.
func (s series) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (s series) min() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	return slices.Min(s)
}

func (s series) max() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	return slices.Max(s)
}

// over divides round by round: what slowed the machine down in one round
// slowed both sides.
func (s series) over(other series) series {
	out := make(series, 0, len(s))
	for i := range min(len(s), len(other)) {
		out = append(out, s[i]/other[i])
	}
	return out
}

// unit is what a series counts.
type unit string

const (
	seconds      unit = "s"
	milliseconds unit = "ms"
	mebibytes    unit = "MiB"
	iops         unit = "IOPS"
	mibPerSecond unit = "MiB/s"
	perSecond    unit = "/s"
	fold         unit = "×"
	asFast       unit = "× as fast"
)

// number is v in about three digits.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case a >= 1000:
		return grouped(int64(math.Round(v)))
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// grouped writes 1234567 as 1,234,567.
func grouped(n int64) string {
	text := fmt.Sprint(n)
	for at := len(text) - 3; at > 0 && text[at-1] != '-'; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// show is a median with its spread.
func (s series) show(u unit) string {
	text := number(s.median()) + " " + string(u)
	if len(s) > 1 {
		text += " (" + number(s.min()) + "–" + number(s.max()) + ")"
	}
	return text
}

// target is what a row should reach: a bound on the row's ratio, or on our own
// value. The zero target is none.
type target struct {
	limit    float64
	atMost   bool
	relative bool
}

func atMost(v float64) target       { return target{limit: v, atMost: true} }
func ratioAtMost(v float64) target  { return target{limit: v, atMost: true, relative: true} }
func ratioAtLeast(v float64) target { return target{limit: v, relative: true} }
func (t target) met(v float64) bool { return cmp.Compare(v, t.limit) == 0 || (v < t.limit) == t.atMost }
func (t target) in(u, ratio unit) (s string) {
	if t == (target{}) {
		return ""
	}
	sign := "≥ "
	if t.atMost {
		sign = "≤ "
	}
	value := fmt.Sprint(t.limit)
	if t.relative {
		return sign + value + " " + string(ratio)
	}
	return sign + value + " " + string(u)
}

// row is a line of a table: a measurement, what it is compared with, and what
// it should reach.
type row struct {
	what    string
	unit    unit
	ours    series
	against string // what theirs is of; empty: nothing to compare with
	theirs  series
	target  target
	speed   bool // the ratio says how many times as fast: a time, theirs by ours
}

// ratio is ours by theirs, round by round, or theirs by ours for a speed.
func (r row) ratio() series {
	if r.speed {
		return r.theirs.over(r.ours)
	}
	return r.ours.over(r.theirs)
}

func (r row) ratioUnit() unit {
	if r.speed {
		return asFast
	}
	return fold
}

// verdict says whether the target is met.
func (r row) verdict() string {
	v := r.ours.median()
	if r.target.relative {
		v = r.ratio().median()
	}
	switch {
	case r.target == (target{}):
		return ""
	case math.IsNaN(v):
		return "not measured"
	case r.target.met(v):
		return "met"
	}
	return "**not met**"
}
