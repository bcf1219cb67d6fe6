package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fickle is a web server with one file that breaks off in the middle.
type fickle struct {
	file    []byte
	header  map[string]string // of the first answer
	next    http.HandlerFunc  // answers all requests but the first; nil: as it should be
	asked   []string          // the ranges asked for
	breaks  int               // how many answers break off
	perhaps func()            // called when one does
}

func (f *fickle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked = append(f.asked, r.Header.Get("Range"))
	for k, v := range f.header {
		w.Header().Set(k, v)
	}
	if len(f.asked) > 1 && f.next != nil {
		f.next(w, r)
		return
	}
	if len(f.asked) > f.breaks {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.file))
		return
	}
	from := 0
	if span, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		from, _ = strconv.Atoi(strings.TrimSuffix(span, "-"))
		w.Header().Set("Content-Range", "bytes "+strconv.Itoa(from)+"-"+strconv.Itoa(len(f.file)-1)+"/"+strconv.Itoa(len(f.file)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(f.file)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(f.file[from : from+(len(f.file)-from)/2])
	if f.perhaps != nil {
		_ = http.NewResponseController(w).Flush()
		f.perhaps()
	}
	panic(http.ErrAbortHandler)
}

// fetch downloads the file and gives what came of it.
func (f *fickle) fetch(ctx context.Context, t *testing.T) ([]byte, error) {
	t.Helper()
	f.file = make([]byte, 300_000)
	_, _ = rand.Read(f.file)
	srv := httptest.NewServer(f)
	defer srv.Close() // which waits for its requests: the caller looks at them
	d, err := openDownload(ctx, srv.Client(), srv.URL+"/disk.raw")
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	d.pause = time.Millisecond
	return io.ReadAll(d)
}

var ranged = map[string]string{"Accept-Ranges": "bytes", "ETag": `"one"`}

func TestDownloadGoesOn(t *testing.T) {
	for name, f := range map[string]*fickle{
		"twice":          {header: ranged, breaks: 2},
		"by date":        {header: map[string]string{"Accept-Ranges": "bytes", "Last-Modified": "Sun, 22 Nov 2026 10:00:00 GMT", "ETag": `W/"one"`}, breaks: 1},
		"after an error": {header: ranged, breaks: 1},
	} {
		if name == "after an error" {
			f.next = func(w http.ResponseWriter, r *http.Request) {
				if len(f.asked) == 2 {
					http.Error(w, "busy", http.StatusServiceUnavailable)
					return
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.file))
			}
		}
		if name == "by date" {
			f.next = func(w http.ResponseWriter, r *http.Request) {
				date, err := http.ParseTime(r.Header.Get("If-Range"))
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				http.ServeContent(w, r, "", date, bytes.NewReader(f.file))
			}
		}
		got, err := f.fetch(t.Context(), t)
		if err != nil || !bytes.Equal(got, f.file) {
			t.Errorf("%s: %d bytes of %d, %v; asked for %v", name, len(got), len(f.file), err, f.asked)
		}
		if len(f.asked) < 2 || f.asked[0] != "" || f.asked[1] != "bytes=150000-" {
			t.Errorf("%s: asked for %q", name, f.asked)
		}
	}
}

// What may be another file, or can't be had from the middle, ends the download:
// two halves of two files are none.
func TestDownloadGivesUp(t *testing.T) {
	for name, tt := range map[string]struct {
		f    fickle
		want string
	}{
		"no ranges": {fickle{header: map[string]string{"ETag": `"one"`}, breaks: 1}, "unexpected EOF"},
		"no tag":    {fickle{header: map[string]string{"Accept-Ranges": "bytes"}, breaks: 1}, "unexpected EOF"},
		"changed": {fickle{header: ranged, breaks: 1, next: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"two"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(make([]byte, 300_000)))
		}}, "doesn't go on from there (200 OK)"},
		"another size, by a server that knows no If-Range": {fickle{header: ranged, breaks: 1, next: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 150000-400000/400001")
			w.WriteHeader(http.StatusPartialContent)
		}}, "doesn't go on from there"},
		"another place": {fickle{header: ranged, breaks: 1, next: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-299999/300000")
			w.WriteHeader(http.StatusPartialContent)
		}}, "doesn't go on from there"},
		"gone":      {fickle{header: ranged, breaks: 1, next: http.NotFound}, "404"},
		"truncated": {fickle{header: ranged, breaks: 1, next: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}, "EOF"},
	} {
		got, err := tt.f.fetch(t.Context(), t)
		if !errors.Is(err, errBrokenOff) || !strings.Contains(err.Error(), tt.want) || len(got) > 150_000 {
			t.Errorf("%s: %d bytes, %v; want %q", name, len(got), err, tt.want)
		}
	}
	truncated := &fickle{header: ranged, breaks: 1, next: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}
	if _, err := truncated.fetch(t.Context(), t); err == nil || len(truncated.asked) != 1+downloadTries {
		t.Errorf("asked %d times: %v", len(truncated.asked), err)
	}
}

func TestDownloadCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := &fickle{header: ranged, breaks: 100, perhaps: cancel}
	if _, err := f.fetch(ctx, t); err == nil || len(f.asked) != 1 {
		t.Errorf("asked %d times: %v", len(f.asked), err)
	}
}

// The lists are in the forms that Debian and Ubuntu publish, and BSD's.
func TestFindSum(t *testing.T) {
	const one, two = "0f1e2d3c4b5a69780f1e2d3c4b5a69780f1e2d3c4b5a69780f1e2d3c4b5a6978", "aa1e2d3c4b5a69780f1e2d3c4b5a69780f1e2d3c4b5a69780f1e2d3c4b5a6978"
	for name, tt := range map[string]struct{ list, want string }{
		"Debian":      {one + one + "  debian-12-genericcloud-amd64.json\n" + two + two + "  debian-12-genericcloud-amd64.qcow2\n", "sha512:" + two + two},
		"Ubuntu":      {one + " *noble-server-cloudimg-amd64.img\n" + two + " *debian-12-genericcloud-amd64.qcow2\n", "sha256:" + two},
		"BSD":         {"SHA256 (debian-12-genericcloud-amd64.qcow2) = " + two + "\n", "sha256:" + two},
		"in a folder": {two + "  ./images/debian-12-genericcloud-amd64.qcow2\n", "sha256:" + two},
		"signed":      {"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + two + "  debian-12-genericcloud-amd64.qcow2\r\n", "sha256:" + two},
		"MD5":         {two[:32] + "  debian-12-genericcloud-amd64.qcow2\n", ""},
		"another's":   {two + "  debian-12-genericcloud-amd64.qcow2.sig\n", ""},
		"a web page":  {"<html>404</html>", ""},
	} {
		if got := findSum(tt.list, "debian-12-genericcloud-amd64.qcow2"); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
