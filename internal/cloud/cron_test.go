package cloud

import (
	"testing"
	"time"
)

func moment(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04:05", s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestCronNext(t *testing.T) {
	for _, tt := range []struct{ expr, after, want string }{
		{"cron(0 3 * * ? *)", "2026-11-22 02:59:59", "2026-11-22 03:00:00"},
		{"cron(0 3 * * ? *)", "2026-11-22 03:00:00", "2026-11-23 03:00:00"},
		{"cron(15 10 ? * 6L *)", "2026-11-01 00:00:00", "2026-11-27 10:15:00"},
		{"cron(0 18 ? * MON-FRI *)", "2026-11-20 18:00:00", "2026-11-23 18:00:00"},
		{"cron(0 8 1 * ? *)", "2026-12-31 23:00:00", "2027-01-01 08:00:00"},
		{"cron(30 0/6 * * ? *)", "2026-11-22 00:30:00", "2026-11-22 06:30:00"},
		{"cron(0 0 L * ? *)", "2027-02-01 00:00:00", "2027-02-28 00:00:00"},
		{"cron(0 9 ? * 3#2 *)", "2026-11-01 00:00:00", "2026-11-10 09:00:00"},
		{"cron(0 9 1W * ? *)", "2026-08-01 10:00:00", "2026-08-03 09:00:00"}, // the 1st is a Saturday
		{"cron(0 9 31W MAY ? *)", "2026-01-01 00:00:00", "2026-05-29 09:00:00"},
		{"cron(0 12 ? DEC SUN 2027)", "2026-11-22 00:00:00", "2027-12-05 12:00:00"},
	} {
		c, err := parseCron(tt.expr)
		if err != nil {
			t.Errorf("%s: %v", tt.expr, err)
			continue
		}
		if got := c.next(moment(t, tt.after)); !got.Equal(moment(t, tt.want)) {
			t.Errorf("%s after %s: %s, want %s", tt.expr, tt.after, got, tt.want)
		}
	}
	c, err := parseCron("cron(0 0 1 JAN ? 2020)")
	if err != nil || !c.next(moment(t, "2026-01-01 00:00:00")).IsZero() {
		t.Errorf("a year that is over: %v, %v", c, err)
	}
}

func TestCronRefused(t *testing.T) {
	for _, expr := range []string{
		"", "0 3 * * ? *", "cron(0 3 * * *)", "cron(0 3 * * * *)", "cron(0 3 ? * ? *)", "cron(60 3 * * ? *)", "cron(0 24 * * ? *)",
		"cron(0 3 32 * ? *)", "cron(0 3 * FOO ? *)", "cron(0 3 ? * 8 *)", "cron(0 3 * * ? 1969)", "cron(5-1 3 * * ? *)", "cron(0/0 3 * * ? *)", "cron(0 3 ? * 2#6 *)",
	} {
		if _, err := parseCron(expr); err == nil {
			t.Errorf("%q was taken", expr)
		}
	}
	for _, expr := range []string{"cron(0/30 3 * * ? *)", "cron(59,0 * * * ? *)", "cron(0 0 1 JAN ? 2020)"} {
		c, err := parseCron(expr)
		if err != nil {
			t.Fatal(err)
		}
		if tooDense(c, moment(t, "2026-11-22 00:00:00")) == nil {
			t.Errorf("%q was taken", expr)
		}
	}
}

func TestIntervalNext(t *testing.T) {
	r := interval{every: 6 * time.Hour, offset: 21*time.Hour + 30*time.Minute}
	for after, want := range map[string]string{
		"2026-11-22 00:00:00": "2026-11-22 03:30:00",
		"2026-11-22 03:30:00": "2026-11-22 09:30:00",
		"2026-11-22 21:30:00": "2026-11-23 03:30:00",
		"2026-11-22 21:29:59": "2026-11-22 21:30:00",
	} {
		if got := r.next(moment(t, after)); !got.Equal(moment(t, want)) {
			t.Errorf("after %s: %s, want %s", after, got, want)
		}
	}
}

func FuzzParseCron(f *testing.F) {
	f.Add("cron(0/15 3-5,9 1W JAN-MAR ? 2026/2)")
	f.Add("cron(0 9 ? * 3#2 *)")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCron(s)
		if err != nil {
			return
		}
		from := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
		if n := c.next(from); !n.IsZero() && !n.After(from) {
			t.Errorf("%q: %s isn't after %s", s, n, from)
		}
	})
}
