package sshclient

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/steadcloud/stead/internal/cli/privatefile"
)

// keyFile is the name of stead's own key in the configuration folder.
const keyFile = "id_ed25519"

// Key is a key pair on this machine.
type Key struct {
	PrivatePath string        // empty when only the public half is here
	Public      ssh.PublicKey // never nil
	Comment     string
}

// AuthorizedLine returns the public half as a line of authorized_keys without
// a newline.
func (k Key) AuthorizedLine() []byte {
	line := bytes.TrimSpace(ssh.MarshalAuthorizedKey(k.Public))
	if k.Comment != "" {
		line = append(append(line, ' '), k.Comment...)
	}
	return line
}

// OwnKey returns stead's own key in the configuration folder dir and makes it
// (ed25519, mode 0600) when it isn't there yet.
func OwnKey(dir string) (Key, error) {
	path := filepath.Join(dir, keyFile)
	k, err := readOwnKey(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	unlock, err := privatefile.Lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return Key{}, err
	}
	defer unlock()
	// Another process may have made it while this one waited.
	if k, err := readOwnKey(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := makeKey(path); err != nil {
		return Key{}, fmt.Errorf("make ssh key %s: %w", path, err)
	}
	return readOwnKey(path)
}

// PlanKey is OwnKey for who changes nothing: where there is no key yet it
// returns one that is kept nowhere.
func PlanKey(dir string) (Key, error) {
	k, err := readOwnKey(filepath.Join(dir, keyFile))
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("make ssh key: %w", err)
	}
	sshPublic, err := ssh.NewPublicKey(public)
	return Key{Public: sshPublic, Comment: "stead"}, err
}

// readOwnKey reads the private half alone: the public one follows from it,
// and so a lost or stale .pub file does no harm.
func readOwnKey(path string) (Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read ssh key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return Key{}, fmt.Errorf("read ssh key %s: %w", path, err)
	}
	return Key{PrivatePath: path, Public: signer.PublicKey(), Comment: "stead"}, nil
}

func makeKey(path string) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "stead")
	if err != nil {
		return err
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	// The public half first: once the private one is there the key is whole.
	line := Key{Public: sshPublic, Comment: "stead"}.AuthorizedLine()
	if err := privatefile.Write(path+".pub", append(line, '\n')); err != nil {
		return err
	}
	return privatefile.Write(path, pem.EncodeToMemory(block))
}

// ReadKey reads the public key at path. Given the path of a private key, it
// takes the .pub file next to it.
func ReadKey(path string) (Key, error) {
	private := strings.TrimSuffix(path, ".pub")
	data, err := os.ReadFile(private + ".pub")
	if errors.Is(err, fs.ErrNotExist) && private == path {
		// A public key under a name of another form.
		data, err = os.ReadFile(path)
		private = ""
	}
	if err != nil {
		return Key{}, fmt.Errorf("read public key: %w", err)
	}
	public, comment, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return Key{}, fmt.Errorf("read public key %s: not an OpenSSH public key (ssh-ed25519 AAAA…): %w", path, err)
	}
	if private != "" {
		if _, err := os.Stat(private); err != nil {
			private = ""
		}
	}
	return Key{PrivatePath: private, Public: public, Comment: comment}, nil
}

// UserKeys returns the keys in the user's .ssh folder that have both halves.
// What can't be read is left out: they are candidates, no more.
func UserKeys(home string) []Key {
	paths, err := filepath.Glob(filepath.Join(home, ".ssh", "id_*.pub"))
	if err != nil {
		return nil
	}
	var keys []Key
	for _, path := range paths {
		if k, err := ReadKey(path); err == nil && k.PrivatePath != "" {
			keys = append(keys, k)
		}
	}
	return keys
}
