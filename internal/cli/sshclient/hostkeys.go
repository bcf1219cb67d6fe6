package sshclient

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/steadcloud/stead/internal/cli/privatefile"
)

// The lines between which cloud-init and its like print the host keys on the
// console. The console is read through the authenticated API, so what is
// found there can be trusted where a first contact over the network can't.
const (
	hostKeysBegin = "-----BEGIN SSH HOST KEY KEYS-----"
	hostKeysEnd   = "-----END SSH HOST KEY KEYS-----"
)

// ConsoleHostKeys finds the host keys that a machine printed on its console.
// The last whole block counts: the console may go back several boots. Lines
// may have a prefix such as "ci-info: " or a time.
func ConsoleHostKeys(console string) []ssh.PublicKey {
	end := strings.LastIndex(console, hostKeysEnd)
	if end < 0 {
		return nil
	}
	begin := strings.LastIndex(console[:end], hostKeysBegin)
	if begin < 0 {
		return nil
	}
	var keys []ssh.PublicKey
	for line := range strings.Lines(console[begin+len(hostKeysBegin) : end]) {
		if key := parseKeyLine(line); key != nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// parseKeyLine takes "[PREFIX] TYPE BASE64 [COMMENT]" and returns nil for
// anything else.
func parseKeyLine(line string) ssh.PublicKey {
	fields := strings.Fields(line)
	for i := 0; i+1 < len(fields); i++ {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(fields[i] + " " + fields[i+1]))
		if err == nil && key.Type() == fields[i] {
			return key
		}
	}
	return nil
}

// KnownHosts is stead's own known_hosts file. A server is found in it by its
// alias, never by its address: addresses change and are used again, the host
// keys lie on the server's disk and stay.
type KnownHosts struct{ dir string }

// OpenKnownHosts returns the file in the configuration folder dir.
func OpenKnownHosts(dir string) KnownHosts { return KnownHosts{dir: dir} }

// Path returns where the file lies, for ssh's UserKnownHostsFile.
func (k KnownHosts) Path() string { return filepath.Join(k.dir, "known_hosts") }

// Has reports whether a key is known for alias.
func (k KnownHosts) Has(alias string) (bool, error) {
	lines, err := k.lines()
	if err != nil {
		return false, err
	}
	for _, line := range lines {
		if isFor(line, alias) {
			return true, nil
		}
	}
	return false, nil
}

// Note returns the note that Replace left with the keys of alias, or "".
func (k KnownHosts) Note(alias string) (string, error) {
	lines, err := k.lines()
	if err != nil {
		return "", err
	}
	for _, line := range lines {
		if fields := bytes.Fields(line); isFor(line, alias) && len(fields) > 3 {
			return string(fields[3]), nil
		}
	}
	return "", nil
}

// Replace makes keys the only ones known for alias; with no keys it forgets
// the alias. The note, one word, is kept beside them.
func (k KnownHosts) Replace(alias, note string, keys []ssh.PublicKey) error {
	unlock, err := privatefile.Lock(filepath.Join(k.dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	lines, err := k.lines()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, line := range lines {
		if len(line) > 0 && !isFor(line, alias) {
			out.Write(line)
			out.WriteByte('\n')
		}
	}
	for _, key := range keys {
		fmt.Fprintf(&out, "%s %s %s\n", alias, bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)), note)
	}
	return privatefile.Write(k.Path(), out.Bytes())
}

// Rename makes what is known of one alias known of another. It can be repeated:
// where nothing is known of the first, the second stays as it is.
func (k KnownHosts) Rename(from, to string) error {
	unlock, err := privatefile.Lock(filepath.Join(k.dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	lines, err := k.lines()
	if err != nil || !slices.ContainsFunc(lines, func(line []byte) bool { return isFor(line, from) }) {
		return err
	}
	var out bytes.Buffer
	for _, line := range lines {
		switch {
		case len(line) == 0 || isFor(line, to):
			continue // of an earlier server of that name
		case isFor(line, from):
			out.WriteString(to)
			line = line[len(from):]
		}
		out.Write(line)
		out.WriteByte('\n')
	}
	return privatefile.Write(k.Path(), out.Bytes())
}

func (k KnownHosts) lines() ([][]byte, error) {
	data, err := os.ReadFile(k.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read known hosts: %w", err)
	}
	return bytes.Split(data, []byte("\n")), nil
}

func isFor(line []byte, alias string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(alias))
	return ok && len(rest) > 0 && rest[0] == ' '
}
