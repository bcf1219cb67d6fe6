package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// seconds gives a clock that is one second later at each look.
func seconds() func() time.Time {
	now := time.Unix(0, 0)
	return func() time.Time {
		now = now.Add(time.Second)
		return now
	}
}

func TestLongLinesAreCutAtSpaces(t *testing.T) {
	words := strings.Repeat("word ", 50)
	lines, err := record(strings.NewReader("$ "+words+"\n"+strings.Repeat("x", 2*columns)), seconds())
	if err != nil {
		t.Fatal(err)
	}
	var back []string
	for _, l := range lines[:len(lines)-1] {
		if n := len([]rune(l.text)); n > columns {
			t.Errorf("%d columns: %s", n, l.text)
		}
		if l.class != "command" {
			t.Errorf("%q is %s", l.text, l.class)
		}
		back = append(back, strings.Fields(strings.TrimSuffix(l.text, `\`))...)
	}
	if got, want := strings.Join(back, " "), strings.TrimSpace("$ "+words); got != want {
		t.Errorf("cut into %q", got)
	}
	if last := lines[len(lines)-1].text; len(last) != 2*columns {
		t.Errorf("a word was cut: %q", last)
	}
}

func TestPictureShowsEveryLineAndItsEnd(t *testing.T) {
	var in strings.Builder
	for i := range 2 * rows {
		fmt.Fprintf(&in, "line <%d> & └─\n", i)
	}
	lines, err := record(strings.NewReader(in.String()), seconds())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := draw(&out, lines); err != nil {
		t.Fatal(err)
	}
	texts, offset := read(t, &out)
	if len(texts) != 2*rows || texts[2*rows-1] != fmt.Sprintf("line <%d> & └─", 2*rows-1) {
		t.Errorf("%d lines, the last is %q", len(texts), texts[len(texts)-1])
	}
	// Where nothing moves, the last line is at the bottom.
	if want := fmt.Sprintf("translate(0 %d)", -rows*lineHeight); offset != want {
		t.Errorf("rests at %s, want %s", offset, want)
	}
}

// read parses a picture: its texts, and how its lines are moved at rest.
func read(t *testing.T, r io.Reader) (texts []string, offset string) {
	t.Helper()
	in, inText := xml.NewDecoder(r), false
	for {
		token, err := in.Token()
		if errors.Is(err, io.EOF) {
			return texts, offset
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			inText = e.Name.Local == "text"
			for _, a := range e.Attr {
				if a.Name.Local == "transform" {
					offset = a.Value
				}
			}
		case xml.EndElement:
			inText = false
		case xml.CharData:
			if inText {
				texts = append(texts, string(e))
			}
		}
	}
}
