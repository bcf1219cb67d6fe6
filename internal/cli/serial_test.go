package cli

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestEscaping(t *testing.T) {
	for in, want := range map[string]string{
		"ls\r":            "ls\r",
		"ls\r~.more":      "ls\r",
		"~.more":          "",
		"a~.b":            "a~.b",
		"~~.":             "~.",
		"~x\r":            "~x\r",
		"ab\x1dcd":        "ab",
		"\r~\r~.never":    "\r~\r",
		"echo ~\r~/bin\r": "echo ~\r~/bin\r",
	} {
		for _, r := range []io.Reader{strings.NewReader(in), iotest.OneByteReader(strings.NewReader(in))} {
			got, err := io.ReadAll(&escaping{r: r})
			if err != nil || string(got) != want {
				t.Errorf("%q: %q, %v, want %q", in, got, err, want)
			}
		}
	}
}

func TestConsoleText(t *testing.T) {
	for n, want := range map[int]string{0: "a\nb\nc\n", 1: "c\n", 2: "b\nc\n", 3: "a\nb\nc\n", 9: "a\nb\nc\n"} {
		if got := lastLines("a\nb\nc\n", n); got != want {
			t.Errorf("last %d: %q", n, got)
		}
	}
	long := strings.Repeat("x", 600)
	for _, tt := range []struct{ seen, text, want string }{
		{"", "boot", "boot"},
		{"boot", "boot", ""},
		{"boot", "boot ok", " ok"},
		{"head" + long + "end", long[10:] + "end more", " more"},
		{"old", "another boot", "another boot"},
	} {
		if got := newOutput(tt.seen, tt.text); got != tt.want {
			t.Errorf("%q after %q: %q", tt.text, tt.seen, got)
		}
	}
}
