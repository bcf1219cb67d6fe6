package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/steadcloud/stead/internal/cloud"
)

const aboutDaemon = "From `stead cloud run` until `/healthz` answers, the program's own start and the " +
	"look for a usable KVM included, and the memory (resident set) of a daemon that has nothing to do."

const (
	readyLimit = 30 * time.Second
	settle     = 2 * time.Second // until a daemon that started is idle
)

// daemon measures the start of a daemon and its memory when idle.
func daemon(ctx context.Context, b *bench) ([]row, error) {
	first := row{what: "ready, the first time on an empty folder", unit: milliseconds, target: atMost(100)}
	again := row{what: "ready, on a folder that was used before", unit: milliseconds, target: atMost(100)}
	memory := row{what: "memory, idle", unit: mebibytes, target: atMost(40)}
	for range b.repeats(9) {
		s, err := b.newScratch("auto")
		if err != nil {
			return nil, err
		}
		for _, r := range []*row{&first, &again} {
			took, err := s.startAndStop(ctx)
			if err != nil {
				return nil, err
			}
			r.ours = append(r.ours, took.Seconds()*1000)
		}
		if len(memory.ours) < b.repeats(3) {
			mib, err := s.idleMemory(ctx)
			if err != nil {
				return nil, err
			}
			memory.ours = append(memory.ours, mib)
		}
		if err := os.RemoveAll(s.dir); err != nil {
			return nil, err
		}
	}
	return []row{first, again, memory}, nil
}

// startAndStop starts a daemon in the foreground and gives the time until it
// was ready.
func (s *scratch) startAndStop(ctx context.Context) (ready time.Duration, err error) {
	address, err := freeAddress()
	if err != nil {
		return 0, err
	}
	cmd := s.command(ctx, "cloud", "run", "--listen", address)
	var log bytes.Buffer
	cmd.Stderr = &log
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ready, err = waitHealthy(ctx, start, "http://"+address+"/healthz")
	err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	if err != nil {
		err = fmt.Errorf("stead cloud run: %w: %s", err, log.Bytes())
	}
	return ready, err
}

// waitHealthy waits for an answer, and gives the time since start.
func waitHealthy(ctx context.Context, start time.Time, url string) (time.Duration, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for time.Since(start) < readyLimit {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, err
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close() // the status is what counts
			if resp.StatusCode == http.StatusOK {
				return time.Since(start), nil
			}
		}
		time.Sleep(time.Millisecond) // the resolution of what is measured
	}
	return 0, fmt.Errorf("%s: no answer in %s", url, readyLimit)
}

// freeAddress is a loopback address with a port that nobody has.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (s *scratch) idleMemory(ctx context.Context) (mib float64, err error) {
	if _, _, err := s.run(ctx, "cloud", "start", "-q"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.stop(ctx)) }()
	control, err := cloud.Connect(string(s.data()))
	if err != nil {
		return 0, err
	}
	info, err := control.Info(ctx)
	if err != nil {
		return 0, err
	}
	time.Sleep(settle)
	return residentMiB(info.PID)
}

// residentMiB is a process's resident memory.
func residentMiB(pid int) (float64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("%s: no VmRSS", path)
}
