package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// openLog opens the daemon's log, which must be a file of its folder's own:
// root reads and writes it where the service user could have put a link.
func openLog(dir Dir, flag int) (*os.File, error) {
	root, err := os.OpenRoot(string(dir))
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // nothing was written
	// Not blocking: a pipe would be waited for.
	f, err := root.OpenFile(filepath.Base(dir.LogFile()), flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the daemon's log: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a file", dir.LogFile())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// appendLog opens the daemon's log to be written by the one that cred names,
// or by this process's user.
func appendLog(dir Dir, cred *syscall.Credential) (*os.File, error) {
	f, err := openLog(dir, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	if err != nil || cred == nil {
		return f, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// One with a second name may be anybody's.
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != cred.Uid && sys.Nlink == 1 {
		if err := f.Chown(int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// logEnd gives the last lines of the daemon's log.
func logEnd(dir Dir) string {
	const most = 2000 // bytes
	f, err := openLog(dir, os.O_RDONLY)
	if err != nil {
		return "  " + err.Error()
	}
	defer func() { _ = f.Close() }() // read only
	st, err := f.Stat()
	if err != nil {
		return "  " + err.Error()
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-most), most))
	if err != nil {
		return "  " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-5):], "\n  ")
}

// Logs copies the log of a data folder's daemon, running or not, to w;
// following, until ctx ends.
func Logs(ctx context.Context, dataDir string, w io.Writer, follow bool) error {
	f, err := openLog(Dir(dataDir), os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("no log in %s: the local cloud has not been started there", dataDir)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	for {
		if _, err := io.Copy(w, f); err != nil || !follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}
