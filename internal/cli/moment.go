package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// moment is a point in time as a person writes it: a flag's value, which is
// read once the present is known.
type moment string

func addAtFlag(f *pflag.FlagSet, at *moment, usage string) {
	f.StringVar((*string)(at), "at", "", usage)
}

// layouts are the forms of a moment with a date. Those without an offset are
// in the time zone of whoever writes them.
var layouts = [...]string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"}

// time reads the moment: a date and time, or how long ago (90m, 3h, 2d). The
// zero time for none.
func (m moment) time(now time.Time) (time.Time, error) {
	s := strings.TrimSpace(string(m))
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	ago := strings.TrimSpace(strings.TrimSuffix(s, "ago"))
	if days, ok := strings.CutSuffix(ago, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(ago); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, usage("--at %q: want a time like 2026-11-22T20:45:00Z or 2026-11-22 20:45, or how long ago, like 90m or 2d", s)
}
