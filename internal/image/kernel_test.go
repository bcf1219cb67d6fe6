package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestInstalledKernelPrefersCloudThenNewest(t *testing.T) {
	root := t.TempDir()
	add := func(version string, withModules bool) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, "boot"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "boot/vmlinuz-"+version), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if !withModules {
			return
		}
		dir := filepath.Join(root, "usr/lib/modules", version)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "modules.builtin"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(version string) {
		t.Helper()
		if k, err := installedKernel(root); err != nil || k.version != version {
			t.Errorf("found %q, %v; want %q", k.version, err, version)
		}
	}
	if _, err := installedKernel(root); !errors.Is(err, errNoKernel) {
		t.Errorf("an empty machine has a kernel: %v", err)
	}
	add("6.12.9-amd64", false)
	if _, err := installedKernel(root); !errors.Is(err, errNoKernel) {
		t.Errorf("a kernel without modules will do: %v", err)
	}
	add("6.12.8-amd64", true)
	want("6.12.8-amd64")
	add("6.1.0-9-cloud-amd64", true)
	want("6.1.0-9-cloud-amd64")
	add("6.1.0-10-cloud-amd64", true)
	want("6.1.0-10-cloud-amd64")
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	tiny := buildTiny(t, TinyOptions{Dir: t.TempDir()})
	k, err := installedKernel("/")
	if err != nil {
		if k, err = installedKernel(filepath.Join(testCache(t), "kernel")); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := openModules(k.modules)
	if err != nil {
		t.Fatal(err)
	}
	required, optional := guestModules()
	modules, err := tree.resolve(t.Context(), required, append(optional, "no_such_module"))
	if err != nil {
		t.Fatal(err)
	}
	var loaded []string
	for _, m := range modules {
		for _, dep := range m.depends {
			if !tree.builtin[dep] && !slices.Contains(loaded, dep) {
				t.Errorf("kernel %s: %s comes before %s", tiny.KernelVersion, m.name, dep)
			}
		}
		loaded = append(loaded, m.name)
	}
	if _, err := tree.resolve(t.Context(), []string{"no_such_module"}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a required module may be absent: %v", err)
	}
}

// bzImage wraps a payload as the boot protocol has it.
func bzImage(payload []byte) []byte {
	image := make([]byte, 1024)
	image[bzSetupSects] = 1
	copy(image[bzMagic:], "HdrS")
	binary.LittleEndian.PutUint16(image[bzVersion:], 0x20f)
	binary.LittleEndian.PutUint32(image[bzPayloadLength:], uint32(len(payload)))
	return append(image, payload...)
}

func TestUnpackKernel(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("kernel "), 1000)
	packed := append(enc.EncodeAll(body, nil), 0x58, 0x1b, 0, 0) // the size follows
	payload, err := bzPayload(bzImage(packed))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unpackKernel(t.Context(), payload); err != nil || !bytes.Equal(got, body) {
		t.Errorf("zstd: %d bytes, %v; want %d", len(got), err, len(body))
	}
	// Something that isn't a kernel is an error, so that the file is booted
	// as it is.
	if _, err := extractVmlinux(t.Context(), bzImage(packed)); err == nil {
		t.Error("text was taken for a kernel")
	}
}

func FuzzBzPayload(f *testing.F) {
	f.Add(bzImage([]byte("payload!")))
	f.Add([]byte("HdrS"))
	f.Fuzz(func(t *testing.T, image []byte) {
		payload, err := bzPayload(image)
		if err == nil && !bytes.Contains(image, payload) {
			t.Error("the payload isn't from the image")
		}
	})
}

func FuzzHasPVHNote(f *testing.F) {
	note := []byte("\x04\x00\x00\x00\x08\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x00\x01\x00\x00\x00\x00")
	f.Add(note)
	f.Add(append([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00L\x00\x00\x00"), note...))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x12\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, notes []byte) {
		if hasPVHNote(notes) && !bytes.Contains(notes, []byte("Xen")) {
			t.Error("a note that isn't there was found")
		}
	})
}

func TestHasPVHNote(t *testing.T) {
	note := []byte("\x04\x00\x00\x00\x08\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x00\x01\x00\x00\x00\x00")
	other := []byte("\x02\x00\x00\x00\x01\x00\x00\x00\x12\x00\x00\x00L\x00\x00\x00x\x00\x00\x00")
	if !hasPVHNote(append(other, note...)) {
		t.Error("the second note isn't found")
	}
	if hasPVHNote(other) || hasPVHNote(note[:14]) {
		t.Error("found a note that isn't there")
	}
}
