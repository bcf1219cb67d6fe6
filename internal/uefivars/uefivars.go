// Package uefivars reads and writes a machine's UEFI variables: in the flash of
// EDK II's firmware (OVMF), and in the form in which EC2 passes them on, as in
// GetInstanceUefiData and RegisterImage.
//
// The flash is a firmware volume with one store of variables, both little
// endian. Each variable is a header and its name and data, padded to 4 bytes;
// one that was deleted or replaced stays, with another state:
//
//	firmware volume  0x00 zeros  0x10 GUID  0x20 length  0x28 "_FVH"  0x30 length of this header
//	store            0x00 GUID  0x10 size, this header's 28 bytes included  0x14 format, state
//	variable         0x00 0x55aa  0x02 state  0x04 attributes  0x10 time  0x24 length of the name
//	                 0x28 length of the data  0x2c GUID  0x3c name in UTF-16, with its zero; data
//
// EC2's form is base64 of a magic number, the CRC-32C of the rest, a version and
// a zlib stream of the variables, those that are kept when a machine is off.
//
// Sources: MdeModulePkg/Include/Guid/VariableFormat.h and
// MdePkg/Include/Pi/PiFirmwareVolume.h of EDK II; for EC2's form
// https://github.com/awslabs/python-uefivars, to which the API's documentation
// refers.
package uefivars

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"
)

// Variable is one that is kept when the machine is off.
type Variable struct {
	Name       string
	GUID       [16]byte // of its vendor, in the order of the flash
	Attributes uint32   // of UEFI, such as 7 for one that the system may change
	Time       [16]byte // when it was signed; zeros for one that isn't
	Data       []byte
}

const (
	volumeHeader   = 0x48 // of the firmware volumes that have variables
	storeHeader    = 28
	variableHeader = 60
	startID        = 0x55aa
	stateAdded     = 0x3f // bits are cleared: added, and not deleted since
	// stateInDeletion is of one whose replacement may not have been completed.
	stateInDeletion = 0x3e
	nonVolatile     = 0x1
	timeSigned      = 0x20
	erased          = 0xff
)

// ErrFormat is what errors wrap that say that data isn't what it should be.
var ErrFormat = errors.New("not a store of UEFI variables")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

var (
	volumeGUID = guid(0xfff12b8d, 0x7696, 0x4c8b, [8]byte{0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50})
	// Of a store with times, the only one that OVMF makes.
	storeGUID = guid(0xaaf32c78, 0x947b, 0x439a, [8]byte{0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92})
	// certGUID is of the firmware's own lists of who signed what.
	certGUID = guid(0xd9bee56e, 0x75dc, 0x49d9, [8]byte{0xb4, 0xd7, 0xb5, 0x34, 0x21, 0x0f, 0x63, 0x7a})
)

func guid(a uint32, b, c uint16, d [8]byte) (g [16]byte) {
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	copy(g[8:], d[:])
	return g
}

// store finds the store of variables in the content of a flash: where its first
// variable is, and where it ends.
func store(flash []byte) (from, to int, err error) {
	if len(flash) < volumeHeader+storeHeader {
		return 0, 0, bad("%d bytes", len(flash))
	}
	header := int(binary.LittleEndian.Uint16(flash[0x30:]))
	switch {
	case string(flash[0x28:0x2c]) != "_FVH" || [16]byte(flash[0x10:0x20]) != volumeGUID:
		return 0, 0, bad("no firmware volume of variables")
	case header != volumeHeader:
		return 0, 0, bad("the firmware volume's header has %d bytes", header)
	case [16]byte(flash[header:header+16]) != storeGUID:
		return 0, 0, bad("a store of another format")
	}
	size := int64(binary.LittleEndian.Uint32(flash[header+16:]))
	if size < storeHeader || int64(header)+size > int64(len(flash)) {
		return 0, 0, bad("a store of %d bytes in %d", size, len(flash))
	}
	return header + storeHeader, header + int(size), nil
}

// ReadFlash gives the variables in the content of a flash, in their order.
// What the firmware keeps for itself of signatures is left out; one that only
// its signer may change, which that is needed for, is an error.
func ReadFlash(flash []byte) ([]Variable, error) {
	at, end, err := store(flash)
	if err != nil {
		return nil, err
	}
	var all []Variable
	replaced := map[string]int{} // index in all, of those that are being replaced
	for at+variableHeader <= end && binary.LittleEndian.Uint16(flash[at:]) == startID {
		head := flash[at : at+variableHeader]
		name, data := int64(binary.LittleEndian.Uint32(head[0x24:])), int64(binary.LittleEndian.Uint32(head[0x28:]))
		next := int64(at) + variableHeader + name + data
		if next > int64(end) {
			return nil, bad("a variable at %#x reaches beyond the store", at)
		}
		body := flash[at+variableHeader : next]
		at = int(next+3) &^ 3
		v := Variable{GUID: [16]byte(head[0x2c:]), Attributes: binary.LittleEndian.Uint32(head[0x04:]), Time: [16]byte(head[0x10:]), Data: body[name:]}
		if v.Name, err = decodeName(body[:name]); err != nil {
			return nil, err
		}
		key := string(v.GUID[:]) + v.Name
		switch i, seen := replaced[key]; {
		case head[2] == stateAdded && seen:
			all[i] = v
			delete(replaced, key)
		case head[2] == stateAdded:
			all = append(all, v)
		case head[2] == stateInDeletion:
			replaced[key] = len(all)
			all = append(all, v)
		}
	}
	return withoutCertificates(all)
}

func withoutCertificates(all []Variable) ([]Variable, error) {
	kept := make([]Variable, 0, len(all))
	for _, v := range all {
		if v.GUID != certGUID {
			kept = append(kept, v)
			continue
		}
		// A list that is empty has its own length alone.
		if len(v.Data) > 4 {
			return nil, errors.New("there are variables that only their signers may change, which can't be passed on")
		}
	}
	return kept, nil
}

// WriteFlash gives the content of a flash with variables: that of a template,
// as the firmware is shipped with, but for its variables.
func WriteFlash(template []byte, variables []Variable) ([]byte, error) {
	at, end, err := store(template)
	if err != nil {
		return nil, err
	}
	flash := append([]byte(nil), template...)
	for i := at; i < end; i++ {
		flash[i] = erased
	}
	for _, v := range variables {
		name := encodeName(v.Name)
		if at+variableHeader+len(name)+len(v.Data) > end {
			return nil, fmt.Errorf("the variables don't fit: %q is the first of %d that there is no room for", v.Name, len(variables))
		}
		head := flash[at : at+variableHeader]
		clear(head)
		binary.LittleEndian.PutUint16(head, startID)
		head[2] = stateAdded
		binary.LittleEndian.PutUint32(head[0x04:], v.Attributes)
		copy(head[0x10:], v.Time[:])
		binary.LittleEndian.PutUint32(head[0x24:], uint32(len(name)))
		binary.LittleEndian.PutUint32(head[0x28:], uint32(len(v.Data)))
		copy(head[0x2c:], v.GUID[:])
		at += variableHeader
		at += copy(flash[at:], name)
		at += copy(flash[at:], v.Data)
		at = (at + 3) &^ 3
	}
	return flash, nil
}

func decodeName(b []byte) (string, error) {
	if len(b) < 2 || len(b)%2 != 0 || b[len(b)-1] != 0 || b[len(b)-2] != 0 {
		return "", bad("a name of %d bytes", len(b))
	}
	units := make([]uint16, len(b)/2-1)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units)), nil
}

func encodeName(name string) []byte {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(name)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
