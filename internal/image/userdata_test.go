package image

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// guestShell runs a line in the guest's own shell, with some of its scripts
// sourced, and returns what it prints.
func guestShell(t *testing.T, line string, scripts ...string) (string, error) {
	t.Helper()
	busybox, err := tool{name: "busybox", static: true}.find()
	if err != nil {
		lacking(t, "busybox is not installed: apt-get install busybox-static")
	}
	// The applets are what a bare busybox shell runs first.
	source := "export PATH=/nowhere\nsave() { cat >\"$1\"; }\nsync() { :; }\n"
	for _, name := range scripts {
		data, err := guestFiles.ReadFile(rootFiles + "/lib/stead/" + name)
		if err != nil {
			t.Fatal(err)
		}
		source += string(data) + "\n"
	}
	dir := t.TempDir()
	source = strings.ReplaceAll(source, "/run/stead", dir)
	cmd := exec.CommandContext(t.Context(), busybox, "sh", "-c", source+line)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func gzipped(t *testing.T, data string) string {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write([]byte(data))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// TestUserDataForms takes user data apart in each form that it may have.
func TestUserDataForms(t *testing.T) {
	const script = "#!/bin/sh\n# stead: disks\n# stead: hostname web\necho one\n"
	packed := base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho two\n"))
	archive := "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=b=\"\r\n\r\nfor old readers\r\n" +
		"--=b=\r\nContent-Type: text/x-shellscript\r\n\r\n" + script +
		"--=b=\r\nContent-Type: text/cloud-config\r\n\r\n#cloud-config\npackages: [x]\n" +
		"--=b=\r\nContent-Type: text/x-shellscript\r\nContent-Transfer-Encoding: base64\r\n\r\n" + packed[:12] + "\r\n" + packed[12:] + "\r\n" +
		"--=b=--\r\nthe end\r\n\r\n"
	for name, c := range map[string]struct{ data, scripts, disks, hostname string }{
		"a script":          {script, "one\n", "yes", "web"},
		"packed":            {gzipped(t, script), "one\n", "yes", "web"},
		"an archive":        {archive, "one\ntwo\n", "yes", "web"},
		"a packed archive":  {gzipped(t, archive), "one\ntwo\n", "yes", "web"},
		"cloud-config":      {"#cloud-config\n# stead: disks\n", "", "no", "none"},
		"bytes":             {"\x00\x01\x02\xff", "", "no", "none"},
		"broken packing":    {"\x1f\x8bnonsense", "", "no", "none"},
		"another word":      {"#!/bin/sh\n# stead: diskses\n: '# stead: hostname x'\necho x\n", "x\n", "no", "none"},
		"nothing":           {"", "", "no", "none"},
		"archive, no parts": {"Content-Type: multipart/mixed; boundary=b\n\n--b--\n", "", "no", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "user-data")
			if err := os.WriteFile(file, []byte(c.data), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := guestShell(t, `USER_DATA=`+dir+`
mkdir "$USER_DATA/scripts"
[ ! -s "$USER_DATA/user-data" ] || take_apart "$USER_DATA/user-data" "$USER_DATA/scripts"
for s in "$USER_DATA"/scripts/*; do [ ! -e "$s" ] || sh "$s"; done
told disks >/dev/null && echo yes || echo no
told hostname || echo none`, "userdata.sh")
			if want := c.scripts + c.disks + "\n" + c.hostname + "\n"; err != nil || got != want {
				t.Errorf("got %q, want %q (%v)", got, want, err)
			}
		})
	}
}
