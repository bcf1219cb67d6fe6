// Package awsproto holds the small wire protocols that the local cloud speaks
// beside EC2's own: AWS query (STS), AWS JSON 1.1 (SSM) and REST-JSON (DLM, EBS).
// All work on the SDK's Input and Output types, whose field names are the names
// on the wire in these services.
//
// Requests in AWS query are forms like EC2's: ec2query.Decode reads them too.
package awsproto

import "reflect"

// onWire says whether a struct field is part of the message: the SDK's own
// bookkeeping is not.
func onWire(f reflect.StructField) bool {
	return f.IsExported() && f.Name != "ResultMetadata"
}

// saysNothing is true of what a response leaves out: nil, and an empty enum (the
// SDK has every other string as a pointer).
func saysNothing(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return v.IsNil()
	case reflect.String:
		return v.Len() == 0
	}
	return false
}
