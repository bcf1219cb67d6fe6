package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// negotiate goes through the handshake up to the transmission of the export.
func negotiate(rw io.ReadWriter, export string) (size int64, flags uint16, err error) {
	client, err := readHello(rw)
	if err != nil {
		return 0, 0, err
	}
	if _, err := rw.Write(append(client, goOption(export)...)); err != nil {
		return 0, 0, err
	}
	return readGoReplies(rw)
}

// readHello takes the server's greeting and returns the answer to it.
func readHello(r io.Reader) (answer []byte, err error) {
	var hello [18]byte
	if _, err := io.ReadFull(r, hello[:]); err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint64(hello[:]) != magicServer || binary.BigEndian.Uint64(hello[8:]) != magicOption {
		return nil, fmt.Errorf("not a newstyle server: %x", hello[:16])
	}
	server := binary.BigEndian.Uint16(hello[16:])
	if server&flagFixedNewstyle == 0 {
		return nil, errors.New("server lacks the fixed newstyle")
	}
	return binary.BigEndian.AppendUint32(nil, uint32(server&(flagFixedNewstyle|flagNoZeroes))), nil
}

// goOption asks for an export and to begin, with no further information.
func goOption(export string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	return option(optGo, binary.BigEndian.AppendUint16(b, 0))
}

func option(kind uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// readGoReplies takes the answers to goOption up to the acknowledgement. The
// export's description has to be among them.
func readGoReplies(r io.Reader) (size int64, flags uint16, err error) {
	described := false
	for {
		kind, data, err := readOptionReply(r, optGo)
		switch {
		case err != nil:
			return 0, 0, err
		case kind&repErrorBit != 0:
			return 0, 0, fmt.Errorf("server refuses (%#x): %.200q", kind, data)
		case kind == repAck && !described:
			return 0, 0, errors.New("server begins without describing the export")
		case kind == repAck:
			return size, flags, nil
		case kind == repInfo && len(data) >= 12 && binary.BigEndian.Uint16(data) == infoExport:
			n := binary.BigEndian.Uint64(data[2:])
			if n > math.MaxInt64 {
				return 0, 0, fmt.Errorf("export of %d bytes", n)
			}
			size, flags, described = int64(n), binary.BigEndian.Uint16(data[10:]), true
		}
	}
}

func readOptionReply(r io.Reader, to uint32) (kind uint32, data []byte, err error) {
	var b [20]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, nil, err
	}
	if magic := binary.BigEndian.Uint64(b[:]); magic != magicOptRep {
		return 0, nil, fmt.Errorf("option reply begins with %#x", magic)
	}
	if option := binary.BigEndian.Uint32(b[8:]); option != to {
		return 0, nil, fmt.Errorf("reply to option %d", option)
	}
	length := binary.BigEndian.Uint32(b[16:])
	if length > maxOptionReply {
		return 0, nil, fmt.Errorf("option reply of %d bytes", length)
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint32(b[12:]), data, nil
}
