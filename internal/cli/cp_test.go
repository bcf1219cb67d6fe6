package cli

import "testing"

func TestParsePlace(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want place
		ok   bool
	}{
		{"file", place{path: "file"}, true},
		{"./a:b", place{path: "./a:b"}, true},
		{"/a/b:c", place{path: "/a/b:c"}, true},
		{"Not_A_Name:x", place{path: "Not_A_Name:x"}, true},
		{"web:", place{server: "web"}, true},
		{"web:x:y", place{server: "web", path: "x:y"}, true},
		{"web:/srv/x", place{server: "web", path: "/srv/x"}, true},
		{"web@latest:/x", place{server: "web", set: "latest", path: "/x"}, true},
		{"web@2026-11-22T20:45:00Z:/x/y:z", place{server: "web", set: "2026-11-22T20:45:00Z", path: "/x/y:z"}, true},
		{"web@latest:x", place{}, false},
		{"web@:/x", place{}, false},
	} {
		got, err := parsePlace(tt.in)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%s: %+v, %v", tt.in, got, err)
		}
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB"} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
