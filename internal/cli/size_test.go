package cli

import (
	"testing"

	"github.com/steadcloud/stead/internal/server"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int{
		"1": 1, "10": 10, "10G": 10, "10g": 10, "10GB": 10, "10GiB": 10, "1T": 1024, "2TiB": 2048, "64T": maxGiB,
	} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "-1", "G", "1.5", "512M", "10 G", "1P", "65T", "65537", "10GG", "1iB", "99999999999999999999", "0x10", "١"} {
		if got, err := parseSize(in); server.KindOf(err) != server.KindUsage {
			t.Errorf("parseSize(%q) = %d, %v; want a usage error", in, got, err)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"1", "10G", "1T", "64T", "GiB", "-0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseSize(s); err == nil && (n < 1 || n > maxGiB) {
			t.Errorf("parseSize(%q) = %d, out of range", s, n)
		}
	})
}

func TestParseDataSpec(t *testing.T) {
	for in, want := range map[string]server.DataSpec{
		"10":           {SizeGiB: 10},
		"1T:/dev/sdf1": {SizeGiB: 1024, Device: "/dev/sdf1"},
		"10:":          {SizeGiB: 10},
		"10:sdf":       {SizeGiB: 10, Device: "/dev/sdf"},
		"10:xvdf:io2":  {SizeGiB: 10, Device: "/dev/xvdf", Type: "io2"},
		"10::st1":      {SizeGiB: 10, Type: "st1"},
		"10:gp2":       {SizeGiB: 10, Type: "gp2"},
	} {
		if got, err := parseDataSpec(in); err != nil || got != want {
			t.Errorf("parseDataSpec(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":/dev/sdf", "10:sdf:sdg", "10:gp9", "10:gp3:sdf", "/dev/sdf:10"} {
		if got, err := parseDataSpec(in); err == nil {
			t.Errorf("parseDataSpec(%q) = %+v, want an error", in, got)
		}
	}
}
