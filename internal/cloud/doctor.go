package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/steadcloud/stead/internal/image"
	"github.com/steadcloud/stead/internal/machine"
	"github.com/steadcloud/stead/internal/volume"
)

// What a check found.
const (
	CheckOK   = "ok"
	CheckWarn = "warn" // works, but not at its best
	CheckFail = "fail" // something that is needed is not there
)

// Check is one thing that the local cloud needs of its machine.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// kvmLimit bounds the probe's guest, which needs a millisecond.
const kvmLimit = 40 * time.Millisecond

// Doctor looks at what the local cloud needs of this machine.
func Doctor(ctx context.Context, dataDir string) []Check {
	return []Check{
		checkQEMU(ctx),
		checkKVM(), checkUEFI(),
		checkTiny(), checkDebian(), checkImport(),
		checkFolder(dataDir),
		checkSpace(dataDir),
		checkReflinks(dataDir),
		checkDaemon(ctx, dataDir),
	}
}

func checkQEMU(ctx context.Context) Check {
	c := Check{Name: "qemu", Status: CheckFail, Remedy: "apt-get install qemu-system-x86"}
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		c.Detail = "qemu-system-x86_64 is not installed: no machine can run"
		return c
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		c.Detail = fmt.Sprintf("%s --version: %v", path, err)
		return c
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return Check{Name: "qemu", Status: CheckOK, Detail: line}
}

func checkKVM() Check {
	err := machine.Probe(kvmLimit)
	switch {
	case err == nil:
		return Check{Name: "kvm", Status: CheckOK, Detail: "/dev/kvm runs guests"}
	case errors.Is(err, os.ErrPermission):
		return Check{Name: "kvm", Status: CheckWarn, Detail: err.Error() + "; machines are emulated, several times slower", Remedy: "add yourself to the group kvm: sudo usermod -aG kvm $USER"}
	}
	return Check{Name: "kvm", Status: CheckWarn, Detail: err.Error() + "; machines are emulated, several times slower"}
}

// checkUEFI only warns: what can boot by BIOS does so without.
func checkUEFI() Check {
	if _, err := machine.NewRunner(machine.Config{}, slog.New(slog.DiscardHandler)).Firmware(); err != nil {
		return Check{
			Name: "uefi", Status: CheckWarn, Detail: err.Error() + "; images that boot by UEFI alone can't be launched",
			Remedy: "apt-get install ovmf",
		}
	}
	return Check{Name: "uefi", Status: CheckOK, Detail: "its firmware is installed"}
}

func checkTiny() Check {
	return checkMissing("tiny image", "can be built", CheckFail, image.MissingForTiny())
}

// checkDebian and checkImport only warn: who needs them asks for them.
func checkDebian() Check {
	return checkMissing("Debian image", "can be built", CheckWarn, image.MissingForDebian())
}

func checkImport() Check {
	return checkMissing("image import", "possible", CheckWarn, image.MissingForImport())
}

// checkMissing says what must be installed for something, how bad it is that it
// isn't, and how.
func checkMissing(name, can, bad string, missing []image.Missing) Check {
	if len(missing) == 0 {
		return Check{Name: name, Status: CheckOK, Detail: can}
	}
	var names, packages []string
	for _, m := range missing {
		names = append(names, m.Name)
		if !slices.Contains(packages, m.Package) {
			packages = append(packages, m.Package)
		}
	}
	return Check{
		Name: name, Status: bad, Detail: "not possible without " + strings.Join(names, ", "),
		Remedy: "apt-get install " + strings.Join(packages, " "),
	}
}

func checkFolder(dataDir string) Check {
	c := Check{Name: "data folder", Status: CheckOK, Detail: dataDir}
	longest := Dir(dataDir).Machine("i-0123456789abcdef0") + "/qmp.sock"
	if len(longest) > 107 {
		c.Status, c.Detail = CheckFail, fmt.Sprintf("%s is too long: its machines' sockets would have paths of %d bytes, and 107 is the limit", dataDir, len(longest))
		c.Remedy = "choose a shorter one with --data-dir or STEAD_DATA_DIR"
	}
	return c
}

// existing is the folder itself, or the nearest above it that is there.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// checkReflinks never warns: nothing but time is lost without.
func checkReflinks(dataDir string) Check {
	c := Check{Name: "reflinks", Status: CheckOK, Detail: "yes: further volumes of a snapshot are made at once"}
	can, err := volume.Reflinks(existing(dataDir))
	switch {
	case err != nil:
		c.Detail = "not known: " + err.Error()
	case !can:
		c.Detail = "no: each volume of a snapshot is written whole; XFS and btrfs have them"
	}
	return c
}

func checkSpace(dataDir string) Check {
	at := existing(dataDir)
	free, err := freeSpace(at)
	switch {
	case err != nil:
		return Check{Name: "disk space", Status: CheckFail, Detail: err.Error()}
	case free < 2*gib:
		return Check{Name: "disk space", Status: CheckWarn, Detail: fmt.Sprintf("%.1f GiB free for volumes and snapshots", float64(free)/float64(gib)), Remedy: "make room, or choose another folder with --data-dir"}
	}
	return Check{Name: "disk space", Status: CheckOK, Detail: fmt.Sprintf("%.1f GiB free", float64(free)/float64(gib))}
}

func checkDaemon(ctx context.Context, dataDir string) Check {
	ctl, err := Connect(dataDir)
	if err != nil {
		return Check{Name: "local cloud", Status: CheckOK, Detail: "not running; it starts by itself when it is needed"}
	}
	info, err := ctl.Info(ctx)
	if err != nil {
		return Check{Name: "local cloud", Status: CheckFail, Detail: err.Error(), Remedy: "stead cloud logs"}
	}
	return Check{Name: "local cloud", Status: CheckOK, Detail: fmt.Sprintf("serving %s since %s, %d machines run", info.Endpoint, info.Started.Format(time.DateTime), info.Instances)}
}
