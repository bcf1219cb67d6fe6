package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// What of a pack is needed here: see docs/snapshot-format.md.
const (
	packTrailer = 16
	packEntry   = 52
	blobHead    = 52
	maxPlain    = 512 << 10
	directChunk = 4 << 20
)

// measureLimits measures what no check of all data can be faster than, on the
// packs in a folder: to unpack and digest what is in memory already, on all
// processors, and to read the files past the page cache. Both in seconds.
func measureLimits(ctx context.Context, packs string) (unpack, direct float64, err error) {
	files, err := filepath.Glob(filepath.Join(packs, "*"))
	if err != nil || len(files) == 0 {
		return 0, 0, fmt.Errorf("no packs in %s: %w", packs, err)
	}
	loaded := make([][]byte, len(files))
	for n, f := range files {
		if loaded[n], err = os.ReadFile(f); err != nil {
			return 0, 0, err
		}
	}
	start := time.Now()
	if err := onAll(ctx, len(loaded), func() (func(int) error, error) { return unpacker(loaded) }); err != nil {
		return 0, 0, err
	}
	unpack = time.Since(start).Seconds()
	start = time.Now()
	if err := onAll(ctx, len(files), func() (func(int) error, error) { return directReader(files) }); err != nil {
		return 0, 0, err
	}
	return unpack, time.Since(start).Seconds(), nil
}

// onAll does n things on as many workers as there are processors.
func onAll(ctx context.Context, n int, worker func() (func(int) error, error)) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			do, err := worker()
			for i := int(next.Add(1)) - 1; i < n && err == nil; i = int(next.Add(1)) - 1 {
				if err = ctx.Err(); err == nil {
					err = do(i)
				}
			}
			return err
		})
	}
	return group.Wait()
}

// unpacker unpacks and digests every blob of a pack.
func unpacker(packs [][]byte) (func(int) error, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPlain))
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 0, maxPlain)
	return func(i int) error {
		pack := packs[i]
		blobs := int(binary.LittleEndian.Uint32(pack[len(pack)-packTrailer:]))
		footer := pack[len(pack)-packTrailer-blobs*packEntry : len(pack)-packTrailer]
		for ; len(footer) > 0; footer = footer[packEntry:] {
			at := int(binary.LittleEndian.Uint32(footer[36:])) + blobHead
			data := pack[at : at+int(binary.LittleEndian.Uint32(footer[44:]))]
			if footer[33] == 1 {
				if data, err = dec.DecodeAll(data, buf[:0]); err != nil {
					return err
				}
			}
			if sha256.Sum256(data) != [32]byte(footer[:32]) {
				return errors.New("a blob hasn't the digest that it should have")
			}
		}
		return nil
	}, nil
}

// directReader reads files past the page cache.
func directReader(files []string) (func(int) error, error) {
	buf, err := unix.Mmap(-1, 0, directChunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	return func(i int) (err error) { // the buffer goes with the process
		f, err := os.OpenFile(files[i], os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			return fmt.Errorf("read past the page cache: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		for {
			if _, err := f.Read(buf); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}, nil
}
