package cloud

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// serviceUser is who the daemon and the machines run as when root starts them.
const serviceUser = "stead"

// dropPrivileges has cmd run as the service user when this process is root:
// with no capability but to listen on low ports, and owning the data folder.
func dropPrivileges(cmd *exec.Cmd, dataDir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	cred, err := serviceCredential()
	if err != nil {
		return err
	}
	if err := ownFolder(dataDir, cred); err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "HOME="+dataDir, "USER="+serviceUser, "LOGNAME="+serviceUser)
	cmd.SysProcAttr.Credential = cred
	cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	return nil
}

// serviceCredential finds the service user, making it if need be, with the
// group that may use KVM.
func serviceCredential() (*syscall.Credential, error) {
	u, err := user.Lookup(serviceUser)
	if errors.As(err, new(user.UnknownUserError)) {
		if out, err := exec.Command("useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent",
			"--shell", "/usr/sbin/nologin", serviceUser).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make the user %s that the local cloud runs as: %w: %s", serviceUser, err, out)
		}
		u, err = user.Lookup(serviceUser)
	}
	if err != nil {
		return nil, fmt.Errorf("find the user %s that the local cloud runs as: %w", serviceUser, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if g, err := user.LookupGroup("kvm"); err == nil {
		if id, err := strconv.ParseUint(g.Gid, 10, 32); err == nil {
			cred.Groups = []uint32{uint32(id)}
		}
	}
	return cred, nil
}

// ownFolder gives the data folder to the service user, who must be able to
// reach it. Once it is theirs nothing in it is touched: they could have put
// there what root must not give away.
func ownFolder(dir string, cred *syscall.Credential) error {
	if err := checkReach(dir, cred); err != nil {
		return err
	}
	if st, err := os.Lstat(dir); err != nil || st.Mode()&fs.ModeSymlink != 0 && !belongsTo(st, 0) {
		return errors.Join(fmt.Errorf("the data folder %s is a link that is not root's; choose another with --data-dir", dir), err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // nothing was written
	st, err := root.Stat(".")
	if err != nil || belongsTo(st, cred.Uid) {
		return err
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	if err := checkTaken(dir, st, entries); err != nil {
		return err
	}
	if err := giveAway(root, cred); err != nil {
		return err
	}
	// Last, so that an interrupted run is begun again.
	return root.Lchown(".", int(cred.Uid), int(cred.Gid))
}

// checkReach refuses a folder below one that the service user may not pass.
func checkReach(dir string, cred *syscall.Credential) error {
	for p := filepath.Dir(dir); p != "/"; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o001 == 0 && !belongsTo(st, cred.Uid) {
			return fmt.Errorf("the data folder %s cannot be reached by the user %s, whom the local cloud runs as: %s is closed to others; "+
				"choose another with --data-dir, or `chmod o+x %s`", dir, serviceUser, p, p)
		}
	}
	return nil
}

// checkTaken refuses a folder that holds something else than a local cloud, or
// somebody else's.
func checkTaken(dir string, st fs.FileInfo, entries []fs.DirEntry) error {
	switch {
	case len(entries) == 0:
		return nil
	case !isDataFolder(entries):
		return fmt.Errorf("%s is not a local cloud's data folder, and not empty: it is not given to the user %s, whom the local cloud runs as; "+
			"choose another with --data-dir", dir, serviceUser)
	case !belongsTo(st, 0):
		return fmt.Errorf("the data folder %s is another user's: it is not given to the user %s, whom the local cloud of root runs as; "+
			"run stead as its owner, choose another with --data-dir, or `chown -R %s %s`", dir, serviceUser, serviceUser, dir)
	}
	return nil
}

// isDataFolder tells by what a daemon writes first.
func isDataFolder(entries []fs.DirEntry) bool {
	d := Dir("")
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return slices.Contains([]string{d.LockFile(), d.StateFile(), d.LogFile()}, e.Name())
	})
}

// giveAway gives all that is in a folder to the service user, never following
// a link.
func giveAway(root *os.Root, cred *syscall.Credential) error {
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another process is at work in it
		}
		if err != nil || path == "." {
			return err
		}
		st, err := root.Lstat(path)
		if err == nil && !belongsTo(st, cred.Uid) {
			err = root.Lchown(path, int(cred.Uid), int(cred.Gid))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func belongsTo(st fs.FileInfo, uid uint32) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Uid == uid
}

// closeFolder makes the data folder and closes it to others. A folder that
// holds something else is left as it is.
func closeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm()&0o077 == 0 || !belongsTo(st, uint32(os.Geteuid())) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 && !isDataFolder(entries) {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// forgoPrivileges keeps this process and its children from ever getting more
// than they have, as by a setuid program. Builds with cgo go without: there Go
// cannot reach every thread.
func forgoPrivileges() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno != 0 && errno != unix.ENOTSUP {
		return fmt.Errorf("give up new privileges: %w", errno)
	}
	return nil
}
