package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// recordVersion is the format of machine.json. It changes when an older program
// couldn't read it; a machine that runs under a newer one is left alone.
const recordVersion = 1

// record is what a machine was started with, so that whoever adopts it knows.
type record struct {
	Version int   `json:"version"`
	Spec    Spec  `json:"spec"`
	Accel   Accel `json:"accel"`
}

func writeRecord(dir string, rec record) error {
	rec.Version = recordVersion
	b, err := json.MarshalIndent(rec, "", "\t")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, fileRecord), append(b, '\n'))
}

func readRecord(dir string) (record, error) {
	path := filepath.Join(dir, fileRecord)
	b, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	var rec record
	if err := json.Unmarshal(b, &rec); err != nil {
		return record{}, fmt.Errorf("%s: %w", path, err)
	}
	if rec.Version != recordVersion {
		return record{}, fmt.Errorf("%s: version %d, this program knows %d", path, rec.Version, recordVersion)
	}
	return rec, nil
}

// temporary is the pattern of the name of a file that isn't whole yet.
func temporary(name string) string { return "." + name + ".*" }

// writeFile puts a file in place whole and durably, or not at all.
func writeFile(path string, data []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), temporary(filepath.Base(path)))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, werr := tmp.Write(data)
	if err := errors.Join(werr, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// prepareUEFI gives a machine its own copy of the firmware's variables and
// returns the path of the firmware's code, empty for BIOS.
func (r *Runner) prepareUEFI(s Spec) (string, error) {
	if !s.UEFI {
		return "", nil
	}
	code, template, err := findFirmware(r.cfg.Firmware)
	if err != nil {
		return "", err
	}
	vars := Variables(s.Dir)
	if _, err := os.Stat(vars); !errors.Is(err, fs.ErrNotExist) {
		return code, err
	}
	b := s.Variables
	if b == nil {
		if b, err = os.ReadFile(template); err != nil {
			return "", err
		}
	}
	return code, writeFile(vars, b)
}

// Variables is the path of the flash with UEFI's variables in a machine's
// folder. It is there from the first start by UEFI on.
func Variables(dir string) string { return filepath.Join(dir, fileUEFIVars) }

// Firmware is the path of the flash that UEFI's firmware begins with, without
// variables of any machine. ErrNoFirmware where it isn't installed.
func (r *Runner) Firmware() (string, error) {
	_, template, err := findFirmware(r.cfg.Firmware)
	return template, err
}

// findFirmware looks for the code and the template of the variables of OVMF
// under the names that distributions give them.
func findFirmware(dirs []string) (code, vars string, err error) {
	for _, dir := range dirs {
		for _, suffix := range []string{"_4M.fd", ".4m.fd", ".fd"} {
			code, vars := filepath.Join(dir, "OVMF_CODE"+suffix), filepath.Join(dir, "OVMF_VARS"+suffix)
			if isFile(code) && isFile(vars) {
				return code, vars, nil
			}
		}
	}
	return "", "", fmt.Errorf("%w (looked in %s)", ErrNoFirmware, strings.Join(dirs, ", "))
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// consoleSize is how much the serial port's log holds, 0 when there is none.
func consoleSize(dir string) int64 {
	fi, err := os.Stat(filepath.Join(dir, fileConsole))
	if err != nil {
		return 0
	}
	return fi.Size()
}

// tail returns the end of a log on one line, for an error message.
func tail(path string) string {
	const most = 2 << 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	lines := strings.FieldsFunc(string(b), func(c rune) bool { return c == '\n' })
	return strings.TrimSpace(strings.Join(lines, "; "))
}
