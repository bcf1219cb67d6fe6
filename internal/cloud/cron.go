package cloud

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rhythm gives the times of a schedule, in UTC.
type rhythm interface {
	// next is the first time after t; zero: there is none.
	next(t time.Time) time.Time
}

// interval is every so many hours, counted from an hour and a minute of the
// day. The hours divide a day, so that each day is like the other.
type interval struct {
	every  time.Duration
	offset time.Duration // since midnight
}

func (i interval) next(t time.Time) time.Time {
	first := t.UTC().Truncate(24 * time.Hour).Add(i.offset - 24*time.Hour)
	return first.Add((t.Sub(first)/i.every + 1) * i.every)
}

// cron is a cron expression of EventBridge's: six fields, the last the year.
// https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-cron-expressions.html
type cron struct {
	minutes, hours, months, years []bool
	day                           func(time.Time) bool
}

// cronHorizon is how far ahead a time is looked for: a schedule must come once
// a year at least, and one of the 29th of February doesn't.
const cronHorizon = 2 * 366

func (c *cron) next(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Minute).Add(time.Minute)
	from := t.Hour()*60 + t.Minute()
	day := t.Truncate(24 * time.Hour)
	for range cronHorizon {
		if c.onDay(day) {
			for m := from; m < 24*60; m++ {
				if c.hours[m/60] && c.minutes[m%60] {
					return day.Add(time.Duration(m) * time.Minute)
				}
			}
		}
		day, from = day.AddDate(0, 0, 1), 0
	}
	return time.Time{}
}

func (c *cron) onDay(day time.Time) bool {
	year := day.Year() - firstYear
	return year >= 0 && year < len(c.years) && c.years[year] && c.months[day.Month()] && c.day(day)
}

const (
	firstYear = 1970
	lastYear  = 2199
)

// cronField is what one field of an expression may say.
type cronField struct {
	name        string
	first, last int
	names       []string // of the values from first on
}

var (
	cronMinute  = cronField{"minutes", 0, 59, nil}
	cronHour    = cronField{"hours", 0, 23, nil}
	cronDay     = cronField{"day-of-month", 1, 31, nil}
	cronMonth   = cronField{"month", 1, 12, []string{"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}}
	cronWeekday = cronField{"day-of-week", 1, 7, []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}}
	cronYear    = cronField{"year", firstYear, lastYear, nil}
)

// parseCron reads "cron(0 3 * * ? *)".
func parseCron(s string) (*cron, error) {
	inner, ok := strings.CutPrefix(s, "cron(")
	inner, closed := strings.CutSuffix(inner, ")")
	f := strings.Fields(inner)
	if !ok || !closed || len(f) != 6 {
		return nil, fmt.Errorf("%q is not of the form cron(minutes hours day-of-month month day-of-week year)", s)
	}
	c := &cron{}
	for _, part := range []struct {
		into  *[]bool
		field cronField
		text  string
	}{{&c.minutes, cronMinute, f[0]}, {&c.hours, cronHour, f[1]}, {&c.months, cronMonth, f[3]}, {&c.years, cronYear, f[5]}} {
		set, err := part.field.parse(part.text)
		if err != nil {
			return nil, err
		}
		*part.into = set
	}
	c.years = c.years[firstYear:]
	var err error
	switch {
	case (f[2] == "?") == (f[4] == "?"):
		return nil, fmt.Errorf("%q: exactly one of day-of-month and day-of-week must be ?", s)
	case f[4] == "?":
		c.day, err = parseDay(f[2])
	default:
		c.day, err = parseWeekday(f[4])
	}
	return c, err
}

// parse reads a list of values, ranges and steps; entry i of the answer says
// whether i is meant.
func (f cronField) parse(text string) ([]bool, error) {
	set := make([]bool, f.last+1)
	for item := range strings.SplitSeq(text, ",") {
		span, stepText, stepped := strings.Cut(item, "/")
		step := 1
		if stepped {
			var err error
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 {
				return nil, fmt.Errorf("%s: %q is no step", f.name, stepText)
			}
		}
		first, last, err := f.span(span, stepped)
		if err != nil {
			return nil, err
		}
		for v := first; v <= last; v += step {
			set[v] = true
		}
	}
	return set, nil
}

// span reads "*", "5" or "1-5"; a value with a step after it goes on to the
// field's end.
func (f cronField) span(text string, stepped bool) (first, last int, err error) {
	if text == "*" {
		return f.first, f.last, nil
	}
	from, to, isRange := strings.Cut(text, "-")
	if first, err = f.value(from); err != nil {
		return 0, 0, err
	}
	switch {
	case isRange:
		last, err = f.value(to)
	case stepped:
		last = f.last
	default:
		last = first
	}
	if err == nil && last < first {
		err = fmt.Errorf("%s: %q ends before it begins", f.name, text)
	}
	return first, last, err
}

func (f cronField) value(text string) (int, error) {
	if at := slices.Index(f.names, strings.ToUpper(text)); at >= 0 {
		return f.first + at, nil
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < f.first || v > f.last {
		return 0, fmt.Errorf("%s: %q is not from %d to %d", f.name, text, f.first, f.last)
	}
	return v, nil
}

// parseDay reads a day of the month: L is the last, 15W the weekday that is
// nearest to the 15th in its month.
func parseDay(text string) (func(time.Time) bool, error) {
	if text == "L" {
		return func(t time.Time) bool { return t.AddDate(0, 0, 1).Day() == 1 }, nil
	}
	if near, ok := strings.CutSuffix(text, "W"); ok {
		d, err := cronDay.value(near)
		if err != nil {
			return nil, err
		}
		return func(t time.Time) bool { return t.Day() == nearestWeekday(t, d) }, nil
	}
	set, err := cronDay.parse(text)
	if err != nil {
		return nil, err
	}
	return func(t time.Time) bool { return set[t.Day()] }, nil
}

// nearestWeekday is the day from Monday to Friday that is nearest to the d-th
// of t's month and within it; 0 where the month has no such day.
func nearestWeekday(t time.Time, d int) int {
	day := time.Date(t.Year(), t.Month(), d, 0, 0, 0, 0, time.UTC)
	if day.Month() != t.Month() {
		return 0
	}
	switch day.Weekday() {
	case time.Saturday:
		if d == 1 {
			return 3
		}
		return d - 1
	case time.Sunday:
		if day.AddDate(0, 0, 1).Month() != t.Month() {
			return d - 2
		}
		return d + 1
	default:
		return d
	}
}

// parseWeekday reads a day of the week, Sunday being 1: 6L is the month's last
// Friday, 3#2 its second Tuesday.
func parseWeekday(text string) (func(time.Time) bool, error) {
	weekday := func(t time.Time) int { return int(t.Weekday()) + 1 }
	if last, ok := strings.CutSuffix(text, "L"); ok && last != "" {
		d, err := cronWeekday.value(last)
		if err != nil {
			return nil, err
		}
		return func(t time.Time) bool { return weekday(t) == d && t.AddDate(0, 0, 7).Month() != t.Month() }, nil
	}
	if dayText, nth, ok := strings.Cut(text, "#"); ok {
		d, err := cronWeekday.value(dayText)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(nth)
		if err != nil || n < 1 || n > 5 {
			return nil, fmt.Errorf("day-of-week: %q: the number after # is from 1 to 5", text)
		}
		return func(t time.Time) bool { return weekday(t) == d && (t.Day()-1)/7 == n-1 }, nil
	}
	if text == "L" {
		text = "SAT"
	}
	set, err := cronWeekday.parse(text)
	if err != nil {
		return nil, err
	}
	return func(t time.Time) bool { return set[weekday(t)] }, nil
}

// tooDense finds two times of a schedule less than an hour apart, or none
// within a year: DLM takes neither.
func tooDense(r rhythm, from time.Time) error {
	const samples = 60
	t := r.next(from)
	if t.IsZero() || t.Sub(from) > 366*24*time.Hour {
		return fmt.Errorf("it has no time within a year")
	}
	for range samples {
		n := r.next(t)
		if n.IsZero() {
			return nil
		}
		if n.Sub(t) < time.Hour {
			return fmt.Errorf("%s and %s are less than an hour apart", t.Format(time.TimeOnly), n.Format(time.TimeOnly))
		}
		t = n
	}
	return nil
}
