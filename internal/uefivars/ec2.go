package uefivars

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf8"
)

// magic begins EC2's form.
const magic = "AMZNUEFI"

// maxPlain bounds what is unpacked: the flash of OVMF has room for 256 KiB.
const maxPlain = 1 << 20

// noDigest stands where a variable's signer would be.
var noDigest [32]byte

// ErrDictionary says that variables were packed with the dictionary that AWS
// packs them with, which is needed to unpack them.
var ErrDictionary = errors.New("the UEFI variables are packed with a dictionary that is AWS's own")

// Encode gives variables in EC2's form. The zlib stream needs no dictionary, and
// any reader takes it.
func Encode(variables []Variable) (string, error) {
	var plain []byte
	var count uint64
	for _, v := range variables {
		if v.Attributes&nonVolatile == 0 {
			continue
		}
		count++
		plain = appendBytes(plain, []byte(v.Name))
		plain = appendBytes(plain, v.Data)
		plain = append(plain, v.GUID[:]...)
		plain = binary.LittleEndian.AppendUint32(plain, v.Attributes)
		if v.Attributes&timeSigned != 0 {
			plain = append(plain, v.Time[:]...)
			plain = appendBytes(plain, noDigest[:])
		}
	}
	var packed bytes.Buffer
	packed.Write(make([]byte, 4)) // the version: 0
	w, err := zlib.NewWriterLevel(&packed, zlib.BestCompression)
	if err != nil {
		return "", err
	}
	_, werr := w.Write(append(binary.LittleEndian.AppendUint64(nil, count), plain...))
	if err := errors.Join(werr, w.Close()); err != nil {
		return "", err
	}
	out := binary.LittleEndian.AppendUint32([]byte(magic), checksum(packed.Bytes()))
	return base64.StdEncoding.EncodeToString(append(out, packed.Bytes()...)), nil
}

func appendBytes(to, b []byte) []byte {
	return append(binary.LittleEndian.AppendUint64(to, uint64(len(b))), b...)
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Decode reads EC2's form. ErrDictionary says that only AWS can.
func Decode(text string) ([]Variable, error) {
	data, err := base64.StdEncoding.DecodeString(text)
	switch {
	case err != nil:
		return nil, bad("%v", err)
	case len(data) < len(magic)+8 || string(data[:len(magic)]) != magic:
		return nil, bad("it doesn't begin with %s", magic)
	}
	sum, data := binary.LittleEndian.Uint32(data[len(magic):]), data[len(magic)+4:]
	if checksum(data) != sum {
		return nil, bad("the checksum is wrong: a part of it may be missing")
	}
	if version := binary.LittleEndian.Uint32(data); version != 0 {
		return nil, bad("version %d, where 0 is known", version)
	}
	r, err := zlib.NewReader(bytes.NewReader(data[4:]))
	if errors.Is(err, zlib.ErrDictionary) {
		return nil, ErrDictionary
	}
	if err != nil {
		return nil, bad("%v", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxPlain+1))
	switch {
	case err != nil:
		return nil, bad("%v", err)
	case len(plain) > maxPlain:
		return nil, bad("more than %d bytes", maxPlain)
	}
	return decodePlain(plain)
}

// decodePlain reads the variables of a stream that was unpacked.
func decodePlain(plain []byte) ([]Variable, error) {
	p := parser{rest: plain}
	count := p.number(8)
	variables := []Variable{}
	for ; count > 0 && !p.short; count-- {
		v := Variable{Name: string(p.text()), Data: slices.Clone(p.text())}
		copy(v.GUID[:], p.take(16))
		v.Attributes = uint32(p.number(4))
		if v.Attributes&timeSigned != 0 {
			copy(v.Time[:], p.take(16))
			if !bytes.Equal(p.text(), noDigest[:]) && !p.short {
				return nil, errors.New("the variable " + v.Name + " is one that only its signer may change, which can't be taken over")
			}
		}
		if !utf8.ValidString(v.Name) {
			return nil, bad("a name that isn't text")
		}
		variables = append(variables, v)
	}
	if p.short || len(p.rest) > 0 {
		return nil, bad("it is cut off, or goes on after its end")
	}
	return variables, nil
}

// parser takes from the beginning of rest, until there isn't enough.
type parser struct {
	rest  []byte
	short bool
}

func (p *parser) take(n uint64) []byte {
	if n > uint64(len(p.rest)) {
		p.short, p.rest = true, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) number(size uint64) uint64 {
	var b [8]byte
	copy(b[:], p.take(size))
	return binary.LittleEndian.Uint64(b[:])
}

func (p *parser) text() []byte { return p.take(p.number(8)) }
