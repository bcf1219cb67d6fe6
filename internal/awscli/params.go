package awscli

import (
	"encoding/base64"
	"reflect"
	"time"
)

// Params is an operation's input as the tool's --cli-input-json takes it: a
// map for a struct, under the API's own names, without what isn't set. input
// is a struct of the SDK or a pointer to one; a map is returned as it is.
func Params(input any) map[string]any {
	m, _ := value(reflect.ValueOf(input)).(map[string]any)
	if m == nil {
		m = map[string]any{}
	}
	return m
}

// value is v as JSON's types; nil when it isn't set.
func value(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Invalid:
		return nil
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return set(v.Elem())
	case reflect.String:
		if v.Len() == 0 { // an enumeration that isn't set
			return nil
		}
	case reflect.Slice, reflect.Map:
		if v.IsNil() {
			return nil
		}
	}
	return set(v)
}

// set is the value of what is known to be set, an empty string for one.
func set(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Struct:
		return fields(v)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return base64.StdEncoding.EncodeToString(v.Bytes())
		}
		list := []any{}
		for k := range v.Len() {
			list = append(list, set(v.Index(k)))
		}
		return list
	case reflect.Map:
		m := map[string]any{}
		for _, k := range v.MapKeys() {
			m[k.String()] = set(v.MapIndex(k))
		}
		return m
	case reflect.Pointer, reflect.Interface:
		return value(v)
	case reflect.String:
		return v.String() // a type of its own becomes a plain one
	default:
		return v.Interface()
	}
}

func fields(v reflect.Value) any {
	if t, ok := v.Interface().(time.Time); ok {
		return t.UTC().Format(time.RFC3339)
	}
	m := map[string]any{}
	for k := range v.NumField() {
		f := v.Type().Field(k)
		if !f.IsExported() || f.Anonymous {
			continue
		}
		// The SDK has plain, not pointed-to, numbers and truths where the
		// API's default is zero: then zero says nothing.
		if kind := f.Type.Kind(); (kind == reflect.Bool || kind == reflect.Int32 || kind == reflect.Int64) && v.Field(k).IsZero() {
			continue
		}
		if x := value(v.Field(k)); x != nil {
			m[f.Name] = x
		}
	}
	return m
}
