package awsproto

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"time"
)

// STSNamespace is the XML namespace of STS responses.
const STSNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

const xmlHeader = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"

// EncodeQuery writes out, a pointer to an action's Output, as an AWS query
// response body. It writes nothing when out has a type without XML form.
func EncodeQuery(w io.Writer, namespace, action, requestID string, out any) error {
	v := reflect.ValueOf(out)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("encode response of %s: %T is not a pointer to an Output", action, out)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `%s<%sResponse xmlns="%s"><%sResult>`, xmlHeader, action, namespace, action)
	if err := appendFields(&b, v.Elem()); err != nil {
		return fmt.Errorf("encode response of %s: %w", action, err)
	}
	fmt.Fprintf(&b, "</%sResult><ResponseMetadata>", action)
	appendElement(&b, "RequestId", requestID)
	fmt.Fprintf(&b, "</ResponseMetadata></%sResponse>", action)
	_, err := w.Write(b.Bytes())
	return err
}

// EncodeQueryError writes an AWS query error body. The HTTP status says whose
// fault it was: 5xx the receiver's, else the sender's.
func EncodeQueryError(w io.Writer, namespace, requestID string, status int, code, message string) error {
	fault := "Sender"
	if status >= http.StatusInternalServerError {
		fault = "Receiver"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `%s<ErrorResponse xmlns="%s"><Error>`, xmlHeader, namespace)
	appendElement(&b, "Type", fault)
	appendElement(&b, "Code", code)
	appendElement(&b, "Message", message)
	b.WriteString("</Error>")
	appendElement(&b, "RequestId", requestID)
	b.WriteString("</ErrorResponse>")
	_, err := w.Write(b.Bytes())
	return err
}

func appendElement(b *bytes.Buffer, name, text string) {
	b.WriteString("<" + name + ">")
	_ = xml.EscapeText(b, []byte(text)) // a buffer takes everything
	b.WriteString("</" + name + ">")
}

func appendFields(b *bytes.Buffer, v reflect.Value) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !onWire(f) || saysNothing(v.Field(i)) {
			continue
		}
		if err := appendValue(b, f.Name, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

// appendValue appends one element with all that is in it.
func appendValue(b *bytes.Buffer, name string, v reflect.Value) error {
	v = reflect.Indirect(v)
	if t, ok := v.Interface().(time.Time); ok {
		appendElement(b, name, t.UTC().Format(time.RFC3339))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		appendElement(b, name, v.String())
	case reflect.Bool:
		appendElement(b, name, strconv.FormatBool(v.Bool()))
	case reflect.Int32, reflect.Int64:
		appendElement(b, name, strconv.FormatInt(v.Int(), 10))
	case reflect.Struct:
		return wrap(b, name, func() error { return appendFields(b, v) })
	case reflect.Slice:
		return wrap(b, name, func() error {
			for i := range v.Len() {
				if err := appendValue(b, "member", v.Index(i)); err != nil {
					return err
				}
			}
			return nil
		})
	default:
		return fmt.Errorf("field %s: no XML form for type %s", name, v.Type())
	}
	return nil
}

func wrap(b *bytes.Buffer, name string, content func() error) error {
	b.WriteString("<" + name + ">")
	err := content()
	b.WriteString("</" + name + ">")
	return err
}
