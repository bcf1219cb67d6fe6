// Command pulse runs inside a guest: it writes and syncs without a pause, stamps
// what it writes with a sequence number, and tells how long each write took. It
// is static and needs nothing, so that it can be copied into any guest.
//
//	pulse DEVICE BLOCKS
//
// BLOCKS is a power of two, 256 or more: so many blocks of 4 KiB at the device's
// beginning are written over and over, from a number on that is above all that is
// found there. Write k goes to block k × [Stride] mod BLOCKS, so that neighbours in
// time are none in place, and is on the disk before k+1 begins.
//
// Each line on standard input names a phase and begins it. The answer, a line of
// JSON, has the last write that was on the disk by then. At the end of the input
// a line for each phase tells its latencies, all turns of the phase together.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	blockSize = 4096
	chunk     = 1 << 20 // bytes that are read at a time
	// Stride is odd, so that k × Stride mod a power of two goes over all blocks.
	Stride = 0x9e3779b1
)

// answer is what a line of input is answered with.
type answer struct {
	Last uint64 `json:"last"` // the newest write that is on the disk
}

// figures are one phase's latencies, in milliseconds.
type figures struct {
	Phase string      `json:"phase"`
	Count int         `json:"count"` // of writes
	Both  percentiles `json:"both"`  // write and sync
	Write percentiles `json:"write"` // the write alone
}

type percentiles struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "pulse:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return errors.New("usage: pulse DEVICE BLOCKS")
	}
	blocks, err := strconv.ParseUint(os.Args[2], 10, 32)
	if err != nil || blocks < chunk/blockSize || blocks&(blocks-1) != 0 {
		return fmt.Errorf("%q is not a power of two from %d on", os.Args[2], chunk/blockSize)
	}
	debug.SetGCPercent(-1) // a collection would look like a slow disk
	p, err := open(os.Args[1], blocks)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- p.beat() }()
	lines := make(chan string)
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			lines <- in.Text()
		}
		close(lines)
	}()
	out := json.NewEncoder(os.Stdout)
	for {
		select {
		case err := <-failed:
			return err
		case name, more := <-lines:
			if !more {
				return p.report(out)
			}
			if err := out.Encode(answer{p.begin(name)}); err != nil {
				return err
			}
		}
	}
}

// phase holds the latencies of one, in nanoseconds.
type phase struct{ writes, both []int64 }

type pulse struct {
	disk   *os.File
	blocks uint64
	block  []byte

	mu     sync.Mutex
	last   uint64
	now    *phase // nil before the first is begun
	order  []string
	phases map[string]*phase
}

// open opens the device and goes on after the newest stamp on it.
func open(path string, blocks uint64) (*pulse, error) {
	disk, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	memory, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("memory fit for O_DIRECT: %w", err)
	}
	p := &pulse{disk: disk, blocks: blocks, block: memory[:blockSize], phases: map[string]*phase{}}
	if err := p.resume(memory); err != nil {
		return nil, err
	}
	return p, nil
}

// resume finds the newest stamp. What the device holds besides, random bytes of
// the host's, isn't in step with its place and is passed over.
func (p *pulse) resume(memory []byte) error {
	for at := uint64(0); at < p.blocks; at += chunk / blockSize {
		if _, err := p.disk.ReadAt(memory, int64(at)*blockSize); err != nil {
			return err
		}
		for i := range uint64(chunk / blockSize) {
			block := memory[i*blockSize:][:blockSize]
			k := binary.LittleEndian.Uint64(block)
			if k*Stride%p.blocks == at+i && binary.LittleEndian.Uint64(block[blockSize-8:]) == k {
				p.last = max(p.last, k)
			}
		}
	}
	return nil
}

// beat writes forever, or until the disk fails.
func (p *pulse) beat() error {
	for k := p.last + 1; ; k++ {
		for at := 0; at < blockSize; at += 8 {
			binary.LittleEndian.PutUint64(p.block[at:], k)
		}
		start := time.Now()
		if _, err := p.disk.WriteAt(p.block, int64(k*Stride%p.blocks)*blockSize); err != nil {
			return fmt.Errorf("write %d: %w", k, err)
		}
		written := time.Since(start)
		if err := unix.Fdatasync(int(p.disk.Fd())); err != nil {
			return fmt.Errorf("sync %d: %w", k, err)
		}
		p.note(k, written, time.Since(start))
	}
}

func (p *pulse) note(k uint64, write, both time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = k
	if p.now != nil {
		p.now.writes, p.now.both = append(p.now.writes, int64(write)), append(p.now.both, int64(both))
	}
}

// begin begins a phase and tells the newest write.
func (p *pulse) begin(name string) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phases[name] == nil {
		const expected = 1 << 16
		p.phases[name] = &phase{make([]int64, 0, expected), make([]int64, 0, expected)}
		p.order = append(p.order, name)
	}
	p.now = p.phases[name]
	return p.last
}

// report tells the latencies of all phases, in the order of their beginnings.
func (p *pulse) report(out *json.Encoder) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.order {
		ph := p.phases[name]
		if err := out.Encode(figures{name, len(ph.both), quantiles(ph.both), quantiles(ph.writes)}); err != nil {
			return err
		}
	}
	return nil
}

// quantiles sorts latencies; each quantile is one that was measured.
func quantiles(of []int64) percentiles {
	if len(of) == 0 {
		return percentiles{}
	}
	slices.Sort(of)
	at := func(q float64) float64 {
		return float64(of[min(len(of)-1, int(q*float64(len(of))))]) / float64(time.Millisecond)
	}
	return percentiles{at(0.5), at(0.99), at(0.999), at(1)}
}
