package ec2query

import (
	"encoding/xml"
	"io"
	"sync"
)

const (
	xmlHeader  = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"
	namespace  = "http://ec2.amazonaws.com/doc/2016-11-15/"
	timeFormat = "2006-01-02T15:04:05.000Z"
)

// EncodeError writes EC2's XML error body. The HTTP status is the caller's.
func EncodeError(w io.Writer, requestID, code, message string) error {
	return writeBody(w, func(b []byte) []byte {
		b = append(b, "<Response><Errors><Error><Code>"...)
		b = appendText(b, code)
		b = append(b, "</Code><Message>"...)
		b = appendText(b, message)
		b = append(b, "</Message></Error></Errors><RequestID>"...)
		b = appendText(b, requestID)
		return append(b, "</RequestID></Response>"...)
	})
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// keepBuffer is the largest buffer that is kept for the next response: about a
// thousand instances.
const keepBuffer = 4 << 20

func writeBody(w io.Writer, body func([]byte) []byte) error {
	buf := buffers.Get().(*[]byte)
	b := body(append((*buf)[:0], xmlHeader...))
	_, err := w.Write(b)
	if cap(b) <= keepBuffer {
		*buf = b
		buffers.Put(buf)
	}
	return err
}

// appendText appends s as character data.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c >= 0x7f, c == '<', c == '>', c == '&':
			return appendEscaped(b, s)
		}
	}
	return append(b, s...)
}

// appendEscaped is for text that XML cannot hold as it is; what it cannot hold
// at all becomes U+FFFD.
func appendEscaped(b []byte, s string) []byte {
	w := appender{b}
	_ = xml.EscapeText(&w, []byte(s)) // fails only as its writer does
	return w.b
}

type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}
