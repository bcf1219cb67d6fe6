package cli_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// serve starts a web server with the script's files and sets URL to its
// address. Below it, /whole/FILE is as it should be; /cut/FILE breaks off once
// and goes on when asked; /changed/FILE breaks off and is another file then;
// /broken/FILE breaks off and can't go on; /stuck/FILE stops in the middle.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: serve")
	}
	var mu sync.Mutex
	seen := map[string]int{}
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(ts.MkAbs(path.Base(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		mu.Lock()
		seen[r.URL.Path]++
		n := seen[r.URL.Path]
		mu.Unlock()
		how := path.Base(path.Dir(r.URL.Path))
		if how != "broken" {
			w.Header().Set("ETag", `"one"`)
			w.Header().Set("Accept-Ranges", "bytes")
		}
		if how == "changed" {
			w.Header().Set("ETag", strconv.Quote(strconv.Itoa(n)))
		}
		if how == "whole" || n > 1 && how != "broken" && how != "stuck" {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		_, _ = w.Write(text[:len(text)/2])
		_ = http.NewResponseController(w).Flush()
		if how == "stuck" {
			select {
			case <-r.Context().Done():
			case <-done:
			}
		}
		panic(http.ErrAbortHandler)
	}))
	ts.Defer(func() { close(done); srv.Close() })
	ts.Setenv("URL", srv.URL)
}
