package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/server"
)

// download reads a file from a web server. When the connection breaks it goes
// on from there, provided that the file is still the same.
type download struct {
	ctx    context.Context
	client *http.Client
	url    string
	size   int64  // 0 when the server doesn't say
	tag    string // of this version of the file; empty: none can be told
	ranges bool   // the server sends parts

	body  io.ReadCloser
	at    int64
	tries int // since something came last
	pause time.Duration
}

const downloadTries = 5

// errBrokenOff says that a download ended before the file did.
var errBrokenOff = errors.New("broken off")

// openDownload asks for a file. ctx bounds the reading, too.
func openDownload(ctx context.Context, client *http.Client, url string) (*download, error) {
	d := &download{ctx: ctx, client: client, url: url, pause: time.Second}
	resp, err := d.get()
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		kind := server.KindFailed
		if resp.StatusCode == http.StatusNotFound {
			kind = server.KindNotFound
		}
		return nil, &server.Error{Code: kind, Op: "download", Resource: url, Reason: "the server says " + resp.Status}
	}
	d.body, d.size = resp.Body, max(0, resp.ContentLength)
	d.ranges = resp.Header.Get("Accept-Ranges") == "bytes"
	// A weak tag doesn't promise the same bytes.
	if d.tag = resp.Header.Get("ETag"); d.tag == "" || strings.HasPrefix(d.tag, "W/") {
		d.tag = resp.Header.Get("Last-Modified")
	}
	return d, nil
}

func (d *download) get() (*http.Response, error) {
	req, err := http.NewRequestWithContext(d.ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return nil, err
	}
	// A disk is to come as it is, and its size with it.
	req.Header.Set("Accept-Encoding", "identity")
	if d.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.at))
		req.Header.Set("If-Range", d.tag)
	}
	return d.client.Do(req)
}

func (d *download) Read(p []byte) (int, error) {
	for {
		n, err := d.body.Read(p)
		d.at += int64(n)
		if n > 0 {
			d.tries = 0
			if errors.Is(err, io.EOF) {
				return n, err
			}
			return n, nil // an error comes again
		}
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if err := d.resume(err); err != nil {
			return 0, err
		}
	}
}

// resume asks for the rest of the file, or says why that can't be.
func (d *download) resume(why error) error {
	for {
		if d.tries++; d.ctx.Err() != nil || !d.ranges || d.tag == "" || d.tries > downloadTries {
			return d.brokenOff("", why)
		}
		select {
		case <-time.After(d.pause * time.Duration(d.tries)):
		case <-d.ctx.Done():
			return d.ctx.Err()
		}
		resp, err := d.get()
		if err != nil {
			why = err
			continue
		}
		if resp.StatusCode == http.StatusPartialContent && d.goesOn(resp.Header.Get("Content-Range")) {
			_ = d.body.Close()
			d.body = resp.Body
			return nil
		}
		_ = resp.Body.Close()
		if resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests {
			why = errors.New("the server says " + resp.Status)
			continue
		}
		return d.brokenOff(", and the server doesn't go on from there ("+resp.Status+"): the file may be another one by now", why)
	}
}

// goesOn tells whether an answer is the rest of the same file: one of the same
// size, from where the last one ended.
func (d *download) goesOn(contentRange string) bool {
	span, total, _ := strings.Cut(contentRange, "/")
	return strings.HasPrefix(span, fmt.Sprintf("bytes %d-", d.at)) && (d.size == 0 || total == "*" || total == strconv.FormatInt(d.size, 10))
}

func (d *download) brokenOff(more string, why error) error {
	of := ""
	if d.size > 0 {
		of = " of " + humanBytes(d.size)
	}
	return fmt.Errorf("download %s: %w after %s%s%s: %w", d.url, errBrokenOff, humanBytes(d.at), of, more, why)
}

func (d *download) Close() error { return d.body.Close() }
