package cloud

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/steadcloud/stead/internal/snapshot"
)

// consoleLog is where an instance's serial output is.
func (c *Cloud) consoleLog(instanceID string) string {
	if h := c.running.get(instanceID); h != nil && h.vm.ConsoleLog() != "" {
		return h.vm.ConsoleLog()
	}
	return filepath.Join(c.dir.Machine(instanceID), "serial.log")
}

// tail gives the last n bytes of a file and when it was written; nothing where
// there is no file.
func tail(path string, n int64) ([]byte, time.Time, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, time.Now(), nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	defer func() { _ = f.Close() }() // read only
	st, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-n), n))
	return text, st.ModTime(), err
}

func freeSpace(path string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// newThrottle passes progress on at most once in every period.
func newThrottle(every time.Duration, f snapshot.Progress) snapshot.Progress {
	var mu sync.Mutex
	last := time.Now()
	return func(done, total int64) {
		mu.Lock()
		due := time.Since(last) >= every
		if due {
			last = time.Now()
		}
		mu.Unlock()
		if due {
			f(done, total)
		}
	}
}
