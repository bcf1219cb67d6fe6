package uefivars

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Flashes that distributions ship: without variables, and with Microsoft's keys.
const ovmf = "/usr/share/OVMF/OVMF_VARS_4M"

func flash(t testing.TB, kind string) []byte {
	t.Helper()
	b, err := os.ReadFile(ovmf + kind)
	if err != nil {
		if os.Getenv("STEAD_STRICT") == "1" {
			t.Fatal("STEAD_STRICT=1: ", err)
		}
		t.Skip(err)
	}
	return b
}

func names(vars []Variable) string {
	var all []string
	for _, v := range vars {
		all = append(all, v.Name)
	}
	return strings.Join(all, " ")
}

func same(t *testing.T, got, want []Variable) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d variables (%s), want %d (%s)", len(got), names(got), len(want), names(want))
	}
	for i, v := range got {
		w := want[i]
		if v.Name != w.Name || v.GUID != w.GUID || v.Attributes != w.Attributes || v.Time != w.Time || !bytes.Equal(v.Data, w.Data) {
			t.Errorf("%s came back as\n%+v, not\n%+v", w.Name, v, w)
		}
	}
}

// The variables of a real flash go through EC2's form into another flash.
func TestRoundTrip(t *testing.T) {
	vars, err := ReadFlash(flash(t, ".ms.fd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"PK", "KEK", "db"} {
		if !strings.Contains(" "+names(vars)+" ", " "+name+" ") {
			t.Errorf("there is no %s among %s", name, names(vars))
		}
	}
	text, err := Encode(vars)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	same(t, decoded, vars)
	empty := flash(t, ".fd")
	written, err := WriteFlash(empty, decoded)
	if err != nil {
		t.Fatal(err)
	}
	if len(written) != len(empty) {
		t.Errorf("the flash has %d bytes, the template %d", len(written), len(empty))
	}
	back, err := ReadFlash(written)
	if err != nil {
		t.Fatal(err)
	}
	same(t, back, vars)
}

func plainVariable(name, data string) Variable {
	return Variable{Name: name, GUID: guid(1, 2, 3, [8]byte{4}), Attributes: 7, Data: []byte(data)}
}

// A variable is replaced by writing it anew and then marking the old one. Cut off
// in between, the new one counts; before that, the old.
func TestReplacedVariables(t *testing.T) {
	state := func(flash []byte, data string, state byte) {
		at := bytes.Index(flash, []byte(data)) - variableHeader - len(encodeName("Boot0001"))
		flash[at+2] = state
	}
	written, err := WriteFlash(flash(t, ".fd"), []Variable{plainVariable("Boot0001", "old"), plainVariable("Other", "kept"), plainVariable("Boot0001", "new")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		old, new byte
		want     string
	}{{0x3c, stateAdded, "kept new"}, {stateInDeletion, stateAdded, "new kept"}, {stateInDeletion, 0x7f, "old kept"}} {
		state(written, "old", c.old)
		state(written, "new", c.new)
		vars, err := ReadFlash(written)
		if err != nil {
			t.Fatal(err)
		}
		var data []string
		for _, v := range vars {
			data = append(data, string(v.Data))
		}
		if got := strings.Join(data, " "); got != c.want {
			t.Errorf("with states %#x and %#x they are %q, want %q", c.old, c.new, got, c.want)
		}
	}
}

// What only its signer may change would be lost on the way: it is refused.
func TestSignersAreNotLost(t *testing.T) {
	certs := plainVariable("certdb", "\x04\x00\x00\x00")
	certs.GUID = certGUID
	empty := flash(t, ".fd")
	written, err := WriteFlash(empty, []Variable{certs})
	if err != nil {
		t.Fatal(err)
	}
	if vars, err := ReadFlash(written); err != nil || len(vars) != 0 {
		t.Errorf("an empty list of signers gives %v, %v", vars, err)
	}
	certs.Data = make([]byte, 60)
	if written, err = WriteFlash(empty, []Variable{certs}); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFlash(written); err == nil {
		t.Error("a list of signers is passed over")
	}
}

func TestVolatileVariablesStay(t *testing.T) {
	volatile := plainVariable("SetupMode", "\x01")
	volatile.Attributes = 6
	text, err := Encode([]Variable{volatile, plainVariable("Lang", "eng")})
	if err != nil {
		t.Fatal(err)
	}
	if vars, err := Decode(text); err != nil || names(vars) != "Lang" {
		t.Errorf("passed on are %v, %v", vars, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := Encode([]Variable{plainVariable("Lang", "eng")})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	// made spoils the data and gives it the right checksum.
	made := func(spoil func(b []byte) []byte) string {
		b := spoil(bytes.Clone(raw))
		binary.LittleEndian.PutUint32(b[8:], checksum(b[12:]))
		return base64.StdEncoding.EncodeToString(b)
	}
	for name, c := range map[string]struct{ text, want string }{
		"no base64":    {"!", "illegal base64"},
		"another form": {base64.StdEncoding.EncodeToString([]byte("something else entirely")), "AMZNUEFI"},
		"cut off":      {base64.StdEncoding.EncodeToString(raw[:len(raw)-3]), "checksum"},
		"version":      {made(func(b []byte) []byte { b[12] = 1; return b }), "version 1"},
		"stream":       {made(func(b []byte) []byte { return b[:len(b)-8] }), "EOF"},
		// zlib's flag, and the sum that its header must have.
		"dictionary": {made(func(b []byte) []byte {
			b[17] |= 0x20
			b[17] = b[17]&^0x1f | byte(31-(uint16(b[16])<<8|uint16(b[17]&^0x1f))%31)
			return b
		}), "dictionary"},
	} {
		if _, err := Decode(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		} else if got := errors.Is(err, ErrDictionary); got != (name == "dictionary") {
			t.Errorf("%s: is a missing dictionary %v", name, got)
		}
	}
}

func TestReadFlashRefuses(t *testing.T) {
	for name, b := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 1<<16)} {
		if _, err := ReadFlash(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := WriteFlash(flash(t, ".fd"), []Variable{plainVariable("Huge", strings.Repeat("x", 1<<20))}); err == nil {
		t.Error("a variable of 1 MiB fits")
	}
}

// The form can be read by AWS's own tool, where that is installed.
func TestPythonUEFIVars(t *testing.T) {
	path, err := exec.LookPath("uefivars")
	if err != nil {
		t.Log("uefivars isn't installed: the form is checked against its documentation alone")
		return
	}
	text, err := Encode([]Variable{plainVariable("Lang", "eng")})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-i", "aws", "-o", "json")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Lang") {
		t.Errorf("uefivars says %v: %s", err, out)
	}
}

func FuzzDecode(f *testing.F) {
	text, _ := Encode([]Variable{plainVariable("Lang", "eng")})
	f.Add(text)
	f.Fuzz(func(t *testing.T, text string) {
		vars, err := Decode(text)
		if err != nil {
			return
		}
		again, err := Encode(vars)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(again); err != nil {
			t.Fatal(err)
		}
	})
}
