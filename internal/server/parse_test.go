package server_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

func TestParsePorts(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "[]",
		"22":                      "[22]",
		"443,80,22":               "[22 80 443]",
		"80 22, 80/tcp":           "[22 80]",
		"53/udp,53":               "[53 53/udp]",
		"8000-8010,8000-8000/udp": "[8000/udp 8000-8010]",
		"1-65535":                 "[1-65535]",
	} {
		got, err := server.ParsePorts(in)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q is %v, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"ssh", "0", "65536", "-1", "9-8", "22/icmp", "22/", "1-2-3", "+22", "22;80"} {
		if got, err := server.ParsePorts(in); !errors.Is(err, server.ErrUsage) {
			t.Errorf("%q is %v, %v; want a usage error", in, got, err)
		}
	}
}

func FuzzParsePorts(f *testing.F) {
	for _, s := range []string{"22,80,443", "8000-8010 53/udp", "1-65535/tcp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ports, err := server.ParsePorts(s)
		if err != nil {
			return
		}
		texts := make([]string, len(ports))
		for k, p := range ports {
			texts[k] = p.String()
			if p.From < 1 || p.To < p.From || p.To > 65535 {
				t.Fatalf("%q has %+v", s, p)
			}
		}
		// What is kept in a tag must read back as the same ports.
		again, err := server.ParsePorts(strings.Join(texts, " "))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(ports) {
			t.Fatalf("%q is %v, and read back %v, %v", s, ports, again, err)
		}
	})
}

func TestParseFrom(t *testing.T) {
	got, err := server.ParseFrom("203.0.113.7, 10.1.2.3/8 2001:db8::1/32 203.0.113.7/32")
	if want := "[10.0.0.0/8 2001:db8::/32 203.0.113.7/32]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	for _, in := range []string{"here", "10.0.0.0/33", "300.1.1.1", "10.0.0.0/8/8"} {
		if got, err := server.ParseFrom(in); !errors.Is(err, server.ErrUsage) {
			t.Errorf("%q is %v, %v; want a usage error", in, got, err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "web-1", "0", strings.Repeat("x", 63)} {
		if err := server.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "Web", "-web", "web-", "a.b", "a b", "a/b", strings.Repeat("x", 64), "wéb", "a\n"} {
		if err := server.CheckName(name); !errors.Is(err, server.ErrUsage) {
			t.Errorf("%q: %v, want a usage error", name, err)
		}
	}
}
