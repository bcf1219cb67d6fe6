package awsproto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// JSONContentType is the media type of AWS JSON 1.1 requests and responses.
const JSONContentType = "application/x-amz-json-1.1"

// JSONTarget returns the service and the action that an AWS JSON request names
// in X-Amz-Target (AmazonSSM.GetParameter); false if it names none.
func JSONTarget(h http.Header) (service, action string, ok bool) {
	service, action, ok = strings.Cut(h.Get("X-Amz-Target"), ".")
	return service, action, ok && service != "" && action != ""
}

// DecodeJSON fills in, a pointer to an action's Input, from the body of a
// request; members that the Input lacks are ignored, as AWS does here. An error
// is of the client's making: SerializationException.
//
// It reads strings, numbers, booleans, structures, lists and maps. Timestamps,
// which AWS JSON has as numbers, are refused.
func DecodeJSON(body []byte, in any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil // an action without input
	}
	if err := json.Unmarshal(body, in); err != nil {
		return fmt.Errorf("decode request: %w", err)
	}
	return nil
}

// EncodeJSON writes out, a pointer to an action's Output, as AWS JSON: times as
// seconds since 1970, blobs in base64, nothing for nil and for empty enums.
func EncodeJSON(w io.Writer, out any) error {
	v := reflect.ValueOf(out)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("encode response: %T is not a pointer to an Output", out)
	}
	return WriteJSON(w, jsonValue(v, epochSeconds))
}

// EncodeJSONError writes an AWS JSON error body.
func EncodeJSONError(w io.Writer, code, message string) error {
	return WriteJSON(w, map[string]string{"__type": code, "message": message})
}

// WriteJSON writes what encoding/json makes of v, such as an error with members
// of its own.
func WriteJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode response: %w", err)
	}
	_, err = w.Write(b)
	return err
}

func epochSeconds(t time.Time) any {
	return json.Number(strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64))
}

// jsonValue returns v in the types that encoding/json writes as AWS JSON, with
// times as the protocol has them.
func jsonValue(v reflect.Value, moment func(time.Time) any) any {
	v = reflect.Indirect(v)
	if !v.IsValid() {
		return nil
	}
	if t, ok := v.Interface().(time.Time); ok {
		return moment(t)
	}
	switch v.Kind() {
	case reflect.Struct:
		m := map[string]any{}
		for i := range v.NumField() {
			if f := v.Type().Field(i); onWire(f) && !saysNothing(v.Field(i)) {
				m[f.Name] = jsonValue(v.Field(i), moment)
			}
		}
		return m
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return v.Bytes()
		}
		list := make([]any, v.Len())
		for i := range list {
			list[i] = jsonValue(v.Index(i), moment)
		}
		return list
	case reflect.Map:
		m := map[string]any{}
		for it := v.MapRange(); it.Next(); {
			m[it.Key().String()] = jsonValue(it.Value(), moment)
		}
		return m
	default:
		return v.Interface()
	}
}
