package ec2query

import (
	"reflect"
	"time"
	"unicode"
	"unicode/utf8"
)

var timeType = reflect.TypeFor[time.Time]()

// onWire says whether a struct field is part of the message: the SDK's own
// bookkeeping is not.
func onWire(f reflect.StructField) bool {
	return f.IsExported() && f.Name != "ResultMetadata"
}

// paramName is the last part of the parameter that a request field takes.
func paramName(t reflect.Type, f reflect.StructField) string {
	if n := requestName(t.Name() + "." + f.Name); n != "" {
		return n
	}
	return f.Name
}

// elementName is the XML element of a response field.
func elementName(t reflect.Type, f reflect.StructField) string {
	if n := responseName(t.Name() + "." + f.Name); n != "" {
		return n
	}
	return lowerFirst(f.Name)
}

// listItemName is the XML element of each item of a response's list.
func listItemName(t reflect.Type, f reflect.StructField) string {
	if n := itemName(t.Name() + "." + f.Name); n != "" {
		return n
	}
	return "item"
}

func lowerFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}
