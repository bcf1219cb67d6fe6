package cloud

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
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
// reach it.
func ownFolder(dir string, cred *syscall.Credential) error {
	for p := filepath.Dir(dir); p != "/"; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o001 == 0 && !belongsTo(st, cred) {
			return fmt.Errorf("the data folder %s cannot be reached by the user %s, whom the local cloud runs as: %s is closed to others; "+
				"choose another with --data-dir, or `chmod o+x %s`", dir, serviceUser, p, p)
		}
	}
	if err := ownTree(dir, cred); err != nil {
		return fmt.Errorf("give the data folder %s to the user %s: %w", dir, serviceUser, err)
	}
	return nil
}

// ownTree changes nothing outside of dir, even while the user whose folder it
// becomes puts links into it: they must not win files of root's.
func ownTree(dir string, cred *syscall.Credential) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // read only
	here, err := root.Stat(".")
	if err != nil {
		return err
	}
	if !os.SameFile(st, here) { // dir is a link: what it leads to is not ours
		return os.Lchown(dir, int(cred.Uid), int(cred.Gid))
	}
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // another process is at work in it
			}
			return err
		}
		st, err := root.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || belongsTo(st, cred) {
			return err
		}
		return root.Lchown(path, int(cred.Uid), int(cred.Gid))
	})
}

func belongsTo(st fs.FileInfo, cred *syscall.Credential) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Uid == cred.Uid
}
