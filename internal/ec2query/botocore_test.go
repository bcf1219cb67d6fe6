package ec2query

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// botocorePython is the interpreter of Debian's python3-boto3.
const botocorePython = "/usr/bin/python3"

// parseResponses reads {operation: XML} and prints what botocore makes of each,
// with null for each member of its model that it did not find. Operations that
// this botocore is too old to know are left out.
const parseResponses = `
import json, sys
import botocore.session, botocore.parsers
model = botocore.session.get_session().get_service_model("ec2")
parser = botocore.parsers.create_parser("ec2")
known = set(model.operation_names)
out = {}

def pad(shape, value):
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if name in value:
                pad(member, value[name])
            else:
                value[name] = None
    elif shape.type_name == "list":
        for item in value:
            pad(shape.member, item)

for name, body in json.load(sys.stdin).items():
    if name in known:
        r = {"body": body.encode(), "headers": {}, "status_code": 200}
        shape = model.operation_model(name).output_shape
        out[name] = parser.parse(r, shape)
        if shape:
            pad(shape, out[name])
json.dump(out, sys.stdout, default=lambda v: v.decode("latin-1") if isinstance(v, bytes) else v.isoformat())
`

// parseError reads an error body and prints botocore's view of it.
const parseError = `
import json, sys
import botocore.parsers
r = {"body": sys.stdin.buffer.read(), "headers": {}, "status_code": 400}
json.dump(botocore.parsers.create_parser("ec2").parse(r, None), sys.stdout)
`

// botocore runs a script that imports it; the test is skipped where it is not
// installed, or fails with STEAD_STRICT=1.
func botocore(t *testing.T, script string, stdin []byte, result any) {
	t.Helper()
	cmd := exec.Command(botocorePython, "-c", script)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, os.ErrNotExist) || strings.Contains(stderr.String(), "ModuleNotFoundError") {
		if os.Getenv("STEAD_STRICT") == "1" {
			t.Fatal("botocore is not installed (python3-boto3)")
		}
		t.Skip("botocore is not installed (python3-boto3)")
	}
	if err != nil {
		t.Fatalf("botocore: %v\n%s", err, stderr.String())
	}
	if err := json.Unmarshal(out, result); err != nil {
		t.Fatal(err)
	}
}

// TestBotocoreReadsResponses: a parser of another make, which minds case, finds
// every field that its model has in the filled response of every action.
func TestBotocoreReadsResponses(t *testing.T) {
	bodies, outputs := map[string]string{}, map[string]any{}
	for _, op := range operations(t) {
		out := filled(op.out).Interface()
		var b bytes.Buffer
		if err := Encode(&b, op.name, "req-1", out); err != nil {
			t.Fatal(err)
		}
		bodies[op.name], outputs[op.name] = b.String(), out
	}
	stdin, err := json.Marshal(bodies)
	if err != nil {
		t.Fatal(err)
	}
	var parsed map[string]map[string]any
	botocore(t, parseResponses, stdin, &parsed)
	if len(parsed) < 400 {
		t.Fatalf("botocore read only %d responses", len(parsed))
	}
	leaves := 0
	for name, got := range parsed {
		meta, _ := got["ResponseMetadata"].(map[string]any)
		if meta["RequestId"] != "req-1" {
			t.Errorf("%s: request ID %v", name, meta["RequestId"])
		}
		delete(got, "ResponseMetadata")
		leaves += compare(t, name, got, reflect.ValueOf(outputs[name]))
	}
	t.Logf("%d responses, %d values", len(parsed), leaves)
	if leaves < 5_000 {
		t.Errorf("botocore read only %d values", leaves)
	}
}

// compare checks what botocore read against the value that was encoded, and
// counts its scalars. Its names are Go's but for case; a field of one side alone
// is of another year's model.
func compare(t *testing.T, at string, got any, want reflect.Value) (leaves int) {
	t.Helper()
	want = reflect.Indirect(want)
	if want.IsValid() && want.IsZero() && got == nil {
		return 0 // a type that holds itself is not filled for ever
	}
	switch g := got.(type) {
	case nil:
		t.Errorf("%s: botocore does not find it", at)
		return 0
	case map[string]any:
		if want.Kind() != reflect.Struct {
			t.Errorf("%s: botocore read a structure, want %s", at, want.Type())
			return 0
		}
		for name, v := range g {
			f := want.FieldByNameFunc(func(n string) bool { return strings.EqualFold(n, name) })
			if f.IsValid() {
				leaves += compare(t, at+"."+name, v, f)
			}
		}
		return leaves
	case []any:
		if want.Kind() != reflect.Slice || want.Len() != len(g) {
			t.Errorf("%s: botocore read %d items, want %v", at, len(g), want)
			return 0
		}
		for i, v := range g {
			leaves += compare(t, at+"[]", v, want.Index(i))
		}
		return leaves
	}
	if !sameScalar(got, want) {
		t.Errorf("%s: botocore read %v, want %v", at, got, want)
	}
	return 1
}

func sameScalar(got any, want reflect.Value) bool {
	switch g := got.(type) {
	case string:
		if want.Type() == timeType {
			at, err := time.Parse(time.RFC3339, g)
			return err == nil && at.Equal(want.Interface().(time.Time))
		}
		if want.Kind() == reflect.Slice { // a blob, one letter a byte
			return slices.Equal([]rune(g), runes(want.Bytes()))
		}
		return want.Kind() == reflect.String && g == want.String()
	case bool:
		return want.Kind() == reflect.Bool && g == want.Bool()
	case float64:
		return want.CanInt() && int64(g) == want.Int() || want.CanFloat() && g == want.Float()
	}
	return false
}

func runes(b []byte) []rune {
	rs := make([]rune, len(b))
	for i, c := range b {
		rs[i] = rune(c)
	}
	return rs
}

func TestBotocoreReadsErrors(t *testing.T) {
	var b bytes.Buffer
	if err := EncodeError(&b, "req-1", "InvalidVolume.NotFound", "no <volume> 'x'"); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Error            struct{ Code, Message string }
		ResponseMetadata struct{ RequestID string }
	}
	botocore(t, parseError, b.Bytes(), &got)
	if got.Error.Code != "InvalidVolume.NotFound" || got.Error.Message != "no <volume> 'x'" || got.ResponseMetadata.RequestID != "req-1" {
		t.Errorf("got %+v", got)
	}
}

// TestBotocoreReadsEmptyListings: a listing with nothing in it is an empty list,
// not a missing key.
func TestBotocoreReadsEmptyListings(t *testing.T) {
	bodies := map[string]string{}
	for name, out := range map[string]any{
		"DescribeInstances": &ec2.DescribeInstancesOutput{}, "DescribeVolumes": &ec2.DescribeVolumesOutput{},
		"DescribeSnapshots": &ec2.DescribeSnapshotsOutput{}, "DescribeImages": &ec2.DescribeImagesOutput{},
	} {
		var b bytes.Buffer
		if err := Encode(&b, name, "req-1", out); err != nil {
			t.Fatal(err)
		}
		bodies[name] = b.String()
	}
	stdin, err := json.Marshal(bodies)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]map[string]any
	botocore(t, parseResponses, stdin, &got)
	for name, list := range map[string]string{"DescribeInstances": "Reservations", "DescribeVolumes": "Volumes", "DescribeSnapshots": "Snapshots", "DescribeImages": "Images"} {
		if l, ok := got[name][list].([]any); !ok || len(l) != 0 {
			t.Errorf("%s: %s is %v", name, list, got[name][list])
		}
	}
}
