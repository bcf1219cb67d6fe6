package awscli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line is the command line that makes a call: serviceID and operation are the
// SDK's names, input is a pointer to the operation's input. What follows the
// shell's rules is quoted for bash.
func Line(serviceID, operation string, input any) string {
	words := []string{"aws", service(serviceID), Kebab(operation)}
	params := Params(input)
	for _, name := range order(input, params) {
		option := "--" + Kebab(name)
		if special := specials[serviceID+" "+operation+" "+name]; special != nil {
			words = append(words, special(option, params)...)
			continue
		}
		words = append(words, argument(option, params[name], isBlob(input, name))...)
	}
	return strings.Join(words, " ")
}

// order lists the parameters that are set as the input declares them.
func order(input any, params map[string]any) []string {
	var names []string
	t := reflect.TypeOf(input)
	if t == nil {
		return nil
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for k := range t.NumField() {
		if _, ok := params[t.Field(k).Name]; ok {
			names = append(names, t.Field(k).Name)
		}
	}
	return names
}

func isBlob(input any, name string) bool {
	t := reflect.TypeOf(input)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	f, ok := t.FieldByName(name)
	if !ok {
		return false
	}
	if f.Type == reflect.TypeFor[io.Reader]() {
		return true
	}
	return f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Uint8
}

// argument is an option with its value, ready for the shell.
func argument(option string, v any, blob bool) []string {
	switch v := v.(type) {
	case bool:
		if v {
			return []string{option}
		}
		return []string{"--no-" + strings.TrimPrefix(option, "--")}
	case string:
		if blob {
			return []string{option, encoded(v)}
		}
		return []string{option, quote(v)}
	case []any:
		if words := plainWords(v); words != nil {
			return append([]string{option}, words...)
		}
		return []string{option, quote(compact(v))}
	case map[string]any:
		return []string{option, quote(compact(v))}
	default:
		return []string{option, fmt.Sprint(v)}
	}
}

// plainWords are the quoted members of a list of strings; nil for another.
func plainWords(list []any) []string {
	var words []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok || s == "" || s[0] == '[' || s[0] == '{' || s[0] == '-' {
			return nil
		}
		words = append(words, quote(s))
	}
	return words
}

// encoded hands bytes over in a way that any version of the tool takes: as a
// file. Text is shown as it is.
func encoded(b64 string) string {
	text, err := base64.StdEncoding.DecodeString(b64)
	if err == nil && utf8.Valid(text) && !bytes.ContainsRune(text, 0) {
		return "fileb://<(printf %s " + quote(string(text)) + ")"
	}
	return "fileb://<(base64 -d <<< " + quote(b64) + ")"
}

func compact(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprint(v) // Params makes nothing that JSON doesn't take
	}
	return strings.TrimSpace(b.String())
}

var safe = regexp.MustCompile(`^[A-Za-z0-9_./:=@%+,-]+$`)

// quote makes one word of s for bash, on one line.
func quote(s string) string {
	switch {
	case safe.MatchString(s):
		return s
	case strings.ContainsFunc(s, unicode.IsControl):
		return "$'" + ansi.Replace(s) + "'"
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// ansi writes text for bash's $'…'. Control characters but the usual ones are
// left as they are: bash takes them.
var ansi = strings.NewReplacer(`\`, `\\`, "'", `\'`, "\n", `\n`, "\t", `\t`, "\r", `\r`)
