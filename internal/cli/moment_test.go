package cli

import (
	"testing"
	"time"
)

func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 22, 20, 0, 0, 0, time.FixedZone("", 3600))
	for text, want := range map[moment]time.Time{
		"":                     {},
		"2026-11-21T20:45:00Z": time.Date(2026, 11, 21, 20, 45, 0, 0, time.UTC),
		"2026-11-21 20:45":     time.Date(2026, 11, 21, 20, 45, 0, 0, now.Location()),
		"2026-11-21":           time.Date(2026, 11, 21, 0, 0, 0, 0, now.Location()),
		"90m":                  now.Add(-90 * time.Minute),
		"3h ago":               now.Add(-3 * time.Hour),
		"2d":                   now.Add(-48 * time.Hour),
	} {
		if got, err := text.time(now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []moment{"yesterday", "-3h", "-1d", "20:45"} {
		if got, err := text.time(now); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}
