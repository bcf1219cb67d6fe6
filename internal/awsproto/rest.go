package awsproto

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// RESTContentType is the media type of REST-JSON requests and responses.
const RESTContentType = "application/json"

// Route is one action of a REST-JSON service: where it is found, and where its
// input is. A segment of the path in braces, as in /policies/{PolicyId}, fills
// the input's field of that name.
type Route struct {
	Method, Path, Action string
	// Query and Header lead from the names of parameters and headers to the
	// fields that they fill, where a service has its own names for them.
	Query, Header map[string]string
	// Payload is the field that the whole body fills, an io.Reader; else the body
	// is JSON.
	Payload string
}

// Decode fills in, a pointer to the action's Input, from a request and its body,
// with the fields in its path that FindRoute gave. What the route doesn't name
// is ignored, as AWS does here.
func (t Route) Decode(in any, r *http.Request, body []byte, path map[string]string) error {
	v := reflect.ValueOf(in).Elem()
	if t.Payload != "" {
		v.FieldByName(t.Payload).Set(reflect.ValueOf(bytes.NewReader(body)))
		body = nil
	}
	if err := DecodeJSON(body, in); err != nil {
		return err
	}
	set := func(where, name string, values []string) error {
		if err := setText(v.FieldByName(name), values); err != nil {
			return fmt.Errorf("decode request: %s: %w", where, err)
		}
		return nil
	}
	for name, value := range path {
		if err := set(name, name, []string{value}); err != nil {
			return err
		}
	}
	query := r.URL.Query()
	for where, name := range t.Query {
		if values, ok := query[where]; ok {
			if err := set(where, name, values); err != nil {
				return err
			}
		}
	}
	for where, name := range t.Header {
		if values := r.Header.Values(where); len(values) > 0 {
			if err := set(where, name, values); err != nil {
				return err
			}
		}
	}
	return nil
}

// FindRoute returns the route that a request takes and the values of the
// fields in its path. A slash at the end changes nothing.
func FindRoute(routes []Route, r *http.Request) (Route, map[string]string, bool) {
	have := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
	for _, route := range routes {
		if route.Method == r.Method {
			if fields, ok := matchPath(strings.Split(strings.Trim(route.Path, "/"), "/"), have); ok {
				return route, fields, true
			}
		}
	}
	return Route{}, nil, false
}

// matchPath compares escaped segments, so that a value may hold slashes.
func matchPath(want, have []string) (map[string]string, bool) {
	if len(want) != len(have) {
		return nil, false
	}
	fields := map[string]string{}
	for i, w := range want {
		name, isField := strings.CutPrefix(w, "{")
		value, err := url.PathUnescape(have[i])
		switch {
		case err != nil, !isField && w != have[i], isField && value == "":
			return nil, false
		case isField:
			fields[strings.TrimSuffix(name, "}")] = value
		}
	}
	return fields, true
}

// DecodeREST fills in, a pointer to an action's Input, from a request's body,
// the fields in its path and its query, whose names begin in lower case. What
// the Input lacks is ignored, as AWS does here.
func DecodeREST(in any, body []byte, path map[string]string, query url.Values) error {
	if err := DecodeJSON(body, in); err != nil {
		return err
	}
	v := reflect.ValueOf(in).Elem()
	for name, value := range path {
		if err := setText(v.FieldByName(name), []string{value}); err != nil {
			return fmt.Errorf("decode request: %s: %w", name, err)
		}
	}
	for name, values := range query {
		if name == "" {
			continue
		}
		f := v.FieldByName(strings.ToUpper(name[:1]) + name[1:])
		if !f.IsValid() {
			continue
		}
		if err := setText(f, values); err != nil {
			return fmt.Errorf("decode request: %s: %w", name, err)
		}
	}
	return nil
}

// setText puts text into a field: a string, an enum, a number, or a list of
// strings.
func setText(f reflect.Value, values []string) error {
	if !f.IsValid() {
		return fmt.Errorf("no such field")
	}
	if f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.String {
		list := reflect.MakeSlice(f.Type(), len(values), len(values))
		for i, s := range values {
			list.Index(i).SetString(s)
		}
		f.Set(list)
		return nil
	}
	if len(values) != 1 {
		return fmt.Errorf("%d values, want one", len(values))
	}
	switch {
	case f.Kind() == reflect.String:
		f.SetString(values[0])
	case f.Kind() == reflect.Pointer && f.Type().Elem().Kind() == reflect.String:
		f.Set(reflect.ValueOf(&values[0]))
	case f.Kind() == reflect.Pointer && isInt(f.Type().Elem().Kind()):
		n, err := strconv.ParseInt(values[0], 10, f.Type().Elem().Bits())
		if err != nil {
			return fmt.Errorf("%q is not a number that fits", values[0])
		}
		f.Set(reflect.New(f.Type().Elem()))
		f.Elem().SetInt(n)
	default:
		return fmt.Errorf("cannot be given as text")
	}
	return nil
}

func isInt(k reflect.Kind) bool { return k == reflect.Int32 || k == reflect.Int64 }

// EncodeREST writes out, a pointer to an action's Output, as REST-JSON: as
// EncodeJSON does, but with times in RFC 3339.
func EncodeREST(w io.Writer, out any) error {
	v := reflect.ValueOf(out)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("encode response: %T is not a pointer to an Output", out)
	}
	return WriteJSON(w, jsonValue(v, func(t time.Time) any { return t.UTC().Format(time.RFC3339) }))
}
