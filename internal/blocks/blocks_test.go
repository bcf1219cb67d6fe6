package blocks_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"golang.org/x/sys/unix"

	"github.com/steadcloud/stead/internal/blocks"
	"github.com/steadcloud/stead/internal/blocks/blockstest"
)

// steady hides the WriteTo of a request's body: the SDK lets go of a body at
// the answer's first byte, and quick answers would be lost.
type steady struct{}

func (steady) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return http.DefaultClient.Do(r)
}

func serve(t *testing.T, name string) (blocks.Endpoint, *blockstest.Endpoint) {
	t.Helper()
	e := &blockstest.Endpoint{}
	srv := httptest.NewServer(e)
	t.Cleanup(srv.Close)
	client := ebs.New(ebs.Options{
		Region: "us-east-1", BaseEndpoint: &srv.URL, HTTPClient: steady{},
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
	})
	return blocks.Endpoint{Blocks: client, EC2: e, Name: name}, e
}

func block(fill byte) []byte {
	b := make([]byte, blocks.Size)
	_, _ = rand.Read(b[:64]) // never fails
	for k := 64; k < len(b); k += 4096 {
		b[k] = fill
	}
	return b
}

// disk is a snapshot of a few blocks, far apart.
func disk() map[int32][]byte {
	return map[int32][]byte{0: block(1), 1: block(2), 7: block(3), 511: block(4), 2047: block(5)}
}

// rawOf is the disk as a file has it.
func rawOf(t *testing.T, sizeGiB int64, content map[int32][]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	check(t, err)
	check(t, f.Truncate(sizeGiB<<30))
	for index, b := range content {
		_, err := f.WriteAt(b, int64(index)*blocks.Size)
		check(t, err)
	}
	check(t, f.Close())
	return path
}

// sameAs compares a raw file with what it must hold.
func sameAs(t *testing.T, path string, sizeGiB int64, content map[int32][]byte) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	st, err := f.Stat()
	check(t, err)
	w := &comparing{t: t, content: content}
	for at := int64(0); at < st.Size(); {
		begin, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		check(t, err)
		end, err := f.Seek(begin, unix.SEEK_HOLE)
		check(t, err)
		w.at = begin
		_, err = io.Copy(w, io.NewSectionReader(f, begin, end-begin))
		check(t, err)
		at = end
	}
	w.at = st.Size()
	w.whole(sizeGiB)
}

// comparing takes a disk, and compares it with what it must hold.
type comparing struct {
	t       *testing.T
	content map[int32][]byte
	at      int64
	found   int64 // bytes that aren't zero
}

func (c *comparing) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := p[:min(int64(len(p)), blocks.Size-c.at%blocks.Size)]
		p = p[len(part):]
		want := c.content[int32(c.at/blocks.Size)]
		if want == nil {
			want = make([]byte, blocks.Size)
		}
		if !bytes.Equal(part, want[c.at%blocks.Size:][:len(part)]) {
			c.t.Fatalf("block %d differs", c.at/blocks.Size)
		}
		c.found += int64(len(part) - bytes.Count(part, []byte{0}))
		c.at += int64(len(part))
	}
	return n, nil
}

// whole holds the disk to its size, and to have all that it must.
func (c *comparing) whole(sizeGiB int64) {
	c.t.Helper()
	want := int64(0)
	for _, b := range c.content {
		want += int64(len(b) - bytes.Count(b, []byte{0}))
	}
	if c.at != sizeGiB<<30 || c.found != want {
		c.t.Fatalf("%d bytes with %d that aren't zero, not %d", c.at, c.found, want)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quick() blocks.Options { return blocks.Options{Poll: time.Millisecond} }

func same(a, b map[int32][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }

func TestCopyAndTheDifference(t *testing.T) {
	t.Parallel()
	from, near := serve(t, "near")
	to, far := serve(t, "far")
	near.Page, far.Slow = 2, 20*time.Millisecond
	first := disk()
	near.Add("snap-first", 1, first)
	a, err := blocks.Copy(t.Context(), from, to, blocks.CopyOptions{Snapshot: "snap-first", Tags: map[string]string{"k": "v"}, Options: quick()})
	check(t, err)
	if got := far.Get(a.Snapshot); !same(got.Blocks, first) || got.Tags["k"] != "v" || got.SizeGiB != 1 {
		t.Fatalf("the copy has other blocks than the snapshot: %v", got.Tags)
	}
	second := maps.Clone(first)
	second[7], second[100] = block(6), block(7)
	delete(second, 511) // it became zeros
	near.Add("snap-second", 1, second)
	puts := far.Count("PutSnapshotBlock")
	o := blocks.CopyOptions{Snapshot: "snap-second", First: "snap-first", FirstCopy: a.Snapshot, Options: quick()}
	b, err := blocks.Copy(t.Context(), from, to, o)
	check(t, err)
	if got := far.Get(b.Snapshot); !same(got.Blocks, second) || got.Parent != a.Snapshot {
		t.Fatal("the second copy has other blocks than the second snapshot")
	}
	if n := far.Count("PutSnapshotBlock") - puts; n != 3 || b.Blocks != 3 {
		t.Errorf("%d blocks were put for three that differ", n)
	}
	// Without a common origin all is copied.
	near.Add("snap-unrelated", 1, first)
	o.First = "snap-unrelated"
	c, err := blocks.Copy(t.Context(), from, to, o)
	check(t, err)
	if got := far.Get(c.Snapshot); !same(got.Blocks, second) || got.Parent != "" {
		t.Error("the copy without a parent has other blocks than the snapshot")
	}
}

func TestCopyGoesOn(t *testing.T) {
	t.Parallel()
	for _, journal := range []bool{true, false} {
		from, near := serve(t, "near")
		to, far := serve(t, "far")
		content := disk()
		near.Add("snap-a", 1, content)
		o := blocks.CopyOptions{Snapshot: "snap-a", Token: "stead-test", Options: quick()}
		o.Parallel = 1
		if journal {
			o.Journal = filepath.Join(t.TempDir(), "notes")
		}
		ctx, cancel := context.WithCancel(t.Context())
		puts := 0
		far.Fault = func(r *http.Request) (int, string) {
			if r.Method == http.MethodPut {
				if puts++; puts == 3 {
					cancel()
					return http.StatusServiceUnavailable, "InternalServerException"
				}
			}
			return 0, ""
		}
		if _, err := blocks.Copy(ctx, from, to, o); !errors.Is(err, context.Canceled) {
			t.Fatalf("cut off: %v", err)
		}
		gets := near.Count("GetSnapshotBlock")
		made, err := blocks.Copy(t.Context(), from, to, o)
		check(t, err)
		if got := far.Get(made.Snapshot); !same(got.Blocks, content) || far.Pending() != 0 {
			t.Error("the copy isn't the snapshot")
		}
		if n := near.Count("GetSnapshotBlock") - gets; journal && n != 3 || !journal && n != 5 {
			t.Errorf("with journal %v: %d blocks were read again", journal, n)
		}
		if journal {
			if left, _ := filepath.Glob(o.Journal + "*"); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		}
	}
}

// TestCopyOfWhatExpired begins anew where the endpoint has given up what an
// earlier try had begun.
func TestCopyOfWhatExpired(t *testing.T) {
	t.Parallel()
	from, near := serve(t, "near")
	to, far := serve(t, "far")
	content := disk()
	near.Add("snap-a", 1, content)
	for _, token := range []string{"", "stead-test"} {
		copyOfWhatExpired(t, from, to, far, content, token)
	}
}

func copyOfWhatExpired(t *testing.T, from, to blocks.Endpoint, far *blockstest.Endpoint, content map[int32][]byte, token string) {
	t.Helper()
	o := blocks.CopyOptions{Snapshot: "snap-a", Token: token, Journal: filepath.Join(t.TempDir(), "notes"), Options: quick()}
	o.Parallel = 1
	far.Fault = func(r *http.Request) (int, string) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/511") {
			return http.StatusForbidden, "AccessDeniedException"
		}
		return 0, ""
	}
	_, err := blocks.Copy(t.Context(), from, to, o)
	if err == nil {
		t.Fatal("no error")
	}
	far.Fault = nil
	far.ExpireAll()
	made, err := blocks.Copy(t.Context(), from, to, o)
	check(t, err)
	if !same(far.Get(made.Snapshot).Blocks, content) {
		t.Error("the copy isn't the snapshot")
	}
}

func TestThrottledBacksOff(t *testing.T) {
	t.Parallel()
	from, near := serve(t, "near")
	to, far := serve(t, "far")
	content := map[int32][]byte{}
	for k := range int32(120) {
		content[k] = block(byte(k))
	}
	near.Add("snap-a", 1, content)
	var calls atomic.Int32
	far.Fault = func(r *http.Request) (int, string) {
		if n := calls.Add(1); r.Method == http.MethodPut && n%25 == 0 {
			return http.StatusBadRequest, "RequestThrottledException"
		}
		return 0, ""
	}
	made, err := blocks.Copy(t.Context(), from, to, blocks.CopyOptions{Snapshot: "snap-a", Options: quick()})
	check(t, err)
	if !same(far.Get(made.Snapshot).Blocks, content) {
		t.Error("the copy isn't the snapshot")
	}
}

func TestExportRawAndStream(t *testing.T) {
	t.Parallel()
	from, near := serve(t, "near")
	near.Page = 2
	content := disk()
	content[9] = make([]byte, blocks.Size) // listed, and zeros
	near.Add("snap-a", 1, content)
	path := filepath.Join(t.TempDir(), "disk.raw")
	o := blocks.ExportOptions{Snapshot: "snap-a", Path: path, Options: quick()}
	_, err := blocks.Export(t.Context(), from, o)
	check(t, err)
	sameAs(t, path, 1, content)
	if left, _ := filepath.Glob(path + "?*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := blocks.Export(t.Context(), from, o); !errors.Is(err, blocks.ErrExists) {
		t.Errorf("a file that is there: %v", err)
	}
	o.Overwrite = true
	_, err = blocks.Export(t.Context(), from, o)
	check(t, err)
	stream := &comparing{t: t, content: content}
	_, err = blocks.Export(t.Context(), from, blocks.ExportOptions{Snapshot: "snap-a", Writer: stream, Options: quick()})
	check(t, err)
	stream.whole(1)
}

func TestExportGoesOn(t *testing.T) {
	t.Parallel()
	for _, spoil := range []string{"", "data", "notes"} {
		from, near := serve(t, "near")
		content := disk()
		near.Add("snap-a", 1, content)
		path := filepath.Join(t.TempDir(), "disk.raw")
		o := blocks.ExportOptions{Snapshot: "snap-a", Path: path, Options: quick()}
		o.Parallel = 1
		near.Fault = func(r *http.Request) (int, string) {
			if strings.HasSuffix(r.URL.Path, "/blocks/511") {
				return http.StatusForbidden, "AccessDeniedException"
			}
			return 0, ""
		}
		if _, err := blocks.Export(t.Context(), from, o); err == nil {
			t.Fatal("no error")
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Fatalf("a file that isn't whole is there: %v", err)
		}
		switch spoil {
		case "data":
			f, err := os.OpenFile(path+".stead-part", os.O_WRONLY, 0)
			check(t, err)
			_, err = f.WriteAt([]byte("rot"), 7*blocks.Size+5000)
			check(t, err)
			check(t, f.Close())
		case "notes": // torn
			st, err := os.Stat(path + ".stead-done")
			check(t, err)
			check(t, os.Truncate(path+".stead-done", st.Size()-7))
		}
		near.Fault = nil
		before := near.Count("GetSnapshotBlock")
		_, err := blocks.Export(t.Context(), from, o)
		check(t, err)
		sameAs(t, path, 1, content)
		if n, want := near.Count("GetSnapshotBlock")-before, map[string]int{"": 2, "data": 5, "notes": 3}[spoil]; n != want {
			t.Errorf("spoiled %q: %d blocks were read, not %d", spoil, n, want)
		}
	}
}

// TestBrokenBlocks wants what comes broken read again, and never written.
func TestBrokenBlocks(t *testing.T) {
	t.Parallel()
	from, near := serve(t, "near")
	near.Add("snap-a", 1, map[int32][]byte{3: block(1)})
	from.Blocks = &corrupting{API: from.Blocks, broken: 2}
	path := filepath.Join(t.TempDir(), "disk.raw")
	o := blocks.ExportOptions{Snapshot: "snap-a", Path: path, Options: quick()}
	_, err := blocks.Export(t.Context(), from, o)
	check(t, err)
	from.Blocks = &corrupting{API: from.Blocks, broken: 1000}
	o.Path += "2"
	if _, err := blocks.Export(t.Context(), from, o); !errors.Is(err, blocks.ErrCorrupt) {
		t.Errorf("always broken: %v", err)
	}
}

type corrupting struct {
	blocks.API
	broken int
}

func (c *corrupting) GetSnapshotBlock(ctx context.Context, in *ebs.GetSnapshotBlockInput, opts ...func(*ebs.Options)) (*ebs.GetSnapshotBlockOutput, error) {
	out, err := c.API.GetSnapshotBlock(ctx, in, opts...)
	if err == nil && c.broken > 0 {
		c.broken--
		data, _ := io.ReadAll(out.BlockData)
		_ = out.BlockData.Close()
		data[77] ^= 1
		out.BlockData = io.NopCloser(bytes.NewReader(data))
	}
	return out, err
}

func TestQCOW2RoundTrip(t *testing.T) {
	t.Parallel()
	from, near := serve(t, "near")
	content := disk()
	content[65536+3] = block(9) // of another table
	near.Add("snap-a", 40, content)
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.qcow2")
	_, err := blocks.Export(t.Context(), from, blocks.ExportOptions{Snapshot: "snap-a", Path: path, Options: quick()})
	check(t, err)
	var stream bytes.Buffer
	_, err = blocks.Export(t.Context(), from, blocks.ExportOptions{Snapshot: "snap-a", Format: blocks.QCOW2, Writer: &stream, Options: quick()})
	check(t, err)
	if whole, err := os.ReadFile(path); err != nil || !bytes.Equal(whole, stream.Bytes()) {
		t.Errorf("the stream isn't the file: %v", err)
	}
	files := []string{path}
	if qemu, err := exec.LookPath("qemu-img"); err == nil {
		run := func(args ...string) {
			t.Helper()
			if out, err := exec.Command(qemu, args...).CombinedOutput(); err != nil {
				t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
			}
		}
		run("check", "-f", "qcow2", path)
		for name, options := range map[string][]string{
			"deflate": {"-c", "-o", "cluster_size=64k"}, "zstd": {"-c", "-o", "compression_type=zstd"},
			"small": {"-o", "cluster_size=4k"}, "old": {"-o", "compat=0.10"}, "large": {"-o", "cluster_size=2M"},
		} {
			to := filepath.Join(dir, name+".qcow2")
			run(slices.Concat([]string{"convert", "-f", "qcow2", "-O", "qcow2"}, options, []string{path, to})...)
			files = append(files, to)
		}
	} else if os.Getenv("STEAD_STRICT") == "1" {
		t.Error("qemu-img isn't installed")
	}
	for _, file := range files {
		made, err := blocks.Import(t.Context(), from, blocks.ImportOptions{Path: file, Options: quick()})
		check(t, err)
		if got := near.Get(made.Snapshot); !same(got.Blocks, content) || got.SizeGiB != 40 || made.Format != blocks.QCOW2 {
			t.Errorf("%s: other blocks than the snapshot", file)
		}
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	to, far := serve(t, "far")
	content := disk()
	path := rawOf(t, 1, content)
	made, err := blocks.Import(t.Context(), to, blocks.ImportOptions{Path: path, Description: "d", Tags: map[string]string{"k": "v"}, Options: quick()})
	check(t, err)
	if got := far.Get(made.Snapshot); !same(got.Blocks, content) || got.Description != "d" || got.Tags["k"] != "v" {
		t.Error("other blocks than the disk")
	}
	// What is the same in the parent isn't put, what became zeros is.
	changed := maps.Clone(content)
	changed[7] = block(8)
	delete(changed, 511)
	path = rawOf(t, 2, changed)
	puts := far.Count("PutSnapshotBlock")
	child, err := blocks.Import(t.Context(), to, blocks.ImportOptions{Path: path, Parent: made.Snapshot, Options: quick()})
	check(t, err)
	if got := far.Get(child.Snapshot); !same(got.Blocks, changed) || got.SizeGiB != 2 {
		t.Error("other blocks than the disk over its parent")
	}
	if n := far.Count("PutSnapshotBlock") - puts; n != 2 {
		t.Errorf("%d blocks were put for two that differ", n)
	}
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	stream, err := blocks.Import(t.Context(), to, blocks.ImportOptions{Reader: io.LimitReader(f, 9*blocks.Size+5000), SpoolDir: t.TempDir(), SizeGiB: 3, Options: quick()})
	check(t, err)
	delete(changed, 2047)
	if got := far.Get(stream.Snapshot); !same(got.Blocks, changed) || got.SizeGiB != 3 {
		t.Error("other blocks than the stream")
	}
	if _, err := blocks.Import(t.Context(), to, blocks.ImportOptions{Path: path, SizeGiB: 1, Options: quick()}); !errors.Is(err, blocks.ErrUsage) {
		t.Errorf("too small: %v", err)
	}
}

func TestImportGoesOn(t *testing.T) {
	t.Parallel()
	for _, change := range []bool{false, true} {
		to, far := serve(t, "far")
		content := disk()
		path := rawOf(t, 1, content)
		o := blocks.ImportOptions{Path: path, Options: quick()}
		o.Parallel = 1
		far.Fault = func(r *http.Request) (int, string) {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/511") {
				return http.StatusForbidden, "AccessDeniedException"
			}
			return 0, ""
		}
		if _, err := blocks.Import(t.Context(), to, o); err == nil {
			t.Fatal("no error")
		}
		far.Fault = nil
		puts := far.Count("PutSnapshotBlock")
		if change { // of a disk that is another now nothing is gone on with
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			check(t, err)
			content[1] = block(77)
			_, err = f.WriteAt(content[1], blocks.Size)
			check(t, err)
			check(t, f.Close())
		}
		made, err := blocks.Import(t.Context(), to, o)
		check(t, err)
		if !same(far.Get(made.Snapshot).Blocks, content) {
			t.Error("other blocks than the disk")
		}
		if n, want := far.Count("PutSnapshotBlock")-puts, map[bool]int{false: 2, true: 5}[change]; n != want {
			t.Errorf("changed %v: %d blocks were put, not %d", change, n, want)
		}
		if far.Pending() != 0 {
			t.Error("a pending snapshot is left")
		}
	}
}

// An endpoint that is full keeps what arrived, and says so; when it has room the
// same command ends what it began.
func TestImportIntoAFullStore(t *testing.T) {
	t.Parallel()
	to, far := serve(t, "far")
	far.Full = "it waits for room"
	content := disk()
	o := blocks.ImportOptions{Path: rawOf(t, 1, content), Options: quick()}
	_, err := blocks.Import(t.Context(), to, o)
	var failed *blocks.Error
	if !errors.As(err, &failed) || failed.Reason != far.Full || far.Pending() != 1 {
		t.Fatalf("%v; %d pending", err, far.Pending())
	}
	puts := far.Count("PutSnapshotBlock")
	far.Full = ""
	made, err := blocks.Import(t.Context(), to, o)
	check(t, err)
	if !same(far.Get(made.Snapshot).Blocks, content) || far.Count("PutSnapshotBlock") != puts {
		t.Errorf("%d blocks were put, not %d", far.Count("PutSnapshotBlock"), puts)
	}
}

func TestImportOfAStreamLeavesNothing(t *testing.T) {
	t.Parallel()
	to, far := serve(t, "far")
	far.Fault = func(r *http.Request) (int, string) {
		if r.Method == http.MethodPut {
			return http.StatusForbidden, "AccessDeniedException"
		}
		return 0, ""
	}
	_, err := blocks.Import(t.Context(), to, blocks.ImportOptions{Reader: bytes.NewReader(block(1)), SpoolDir: t.TempDir(), Options: quick()})
	if err == nil || far.Pending() != 0 {
		t.Errorf("%v; %d pending", err, far.Pending())
	}
}

// A qcow2 file that is cut off is no disk, and no try more will make it one.
func TestImportOfACutOffFile(t *testing.T) {
	t.Parallel()
	to, far := serve(t, "far")
	far.Add("snap-a", 1, disk())
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	_, err := blocks.Export(t.Context(), to, blocks.ExportOptions{Snapshot: "snap-a", Path: path, Options: quick()})
	check(t, err)
	whole, err := os.ReadFile(path)
	check(t, err)
	part := whole[:len(whole)-blocks.Size]
	check(t, os.WriteFile(path, part, 0o600))
	for name, o := range map[string]blocks.ImportOptions{path: {Path: path}, "the stream": {Reader: bytes.NewReader(part), SpoolDir: t.TempDir()}} {
		o.Options = quick()
		_, err := blocks.Import(t.Context(), to, o)
		if !errors.Is(err, blocks.ErrFormat) || !strings.Contains(err.Error(), "cut off") || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want that %s is cut off", err, name)
		}
	}
}

func TestImportRefusesWhatDrawsOnOthers(t *testing.T) {
	t.Parallel()
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img isn't installed")
	}
	to, _ := serve(t, "far")
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "base"), make([]byte, 1<<20), 0o600))
	out, err := exec.Command(qemu, "create", "-f", "qcow2", "-F", "raw", "-b", "base", filepath.Join(dir, "over.qcow2")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, err = blocks.Import(t.Context(), to, blocks.ImportOptions{Path: filepath.Join(dir, "over.qcow2"), Options: quick()})
	if !errors.Is(err, blocks.ErrFormat) || !strings.Contains(err.Error(), "backing") {
		t.Errorf("a file with a backing file: %v", err)
	}
}
