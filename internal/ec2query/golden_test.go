package ec2query

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// The SDK is the oracle of both golden tests: its module carries one request for
// each operation with every parameter in it, and its client reads what Encode
// writes.

// operation is one method of the client.
type operation struct {
	name    string
	in, out reflect.Type
}

// operations lists every operation of the client. Only tests may look methods up
// by reflection: in the program it would make the linker keep all of them.
func operations(t testing.TB) []operation {
	var ops []operation
	client := reflect.TypeFor[*ec2.Client]()
	for i := range client.NumMethod() {
		m := client.Method(i)
		if m.Type.NumIn() == 4 && m.Type.NumOut() == 2 {
			ops = append(ops, operation{m.Name, m.Type.In(2).Elem(), m.Type.Out(0).Elem()})
		}
	}
	if len(ops) < 800 {
		t.Fatalf("found only %d operations", len(ops))
	}
	return ops
}

// roundTripper is an HTTP client that answers by itself.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) Do(r *http.Request) (*http.Response, error) { return f(r) }

// call sends in through the SDK's client and answers it with response. It
// returns the form that was sent and the Output that was read.
func call(op string, in any, response []byte) (sent url.Values, out reflect.Value, err error) {
	c := ec2.New(ec2.Options{
		Region: "us-east-1", RetryMaxAttempts: 1, BaseEndpoint: aws.String("http://localhost"),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		}),
		HTTPClient: roundTripper(func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			sent, err = url.ParseQuery(string(body))
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(response))}, err
		}),
	})
	res := reflect.ValueOf(c).MethodByName(op).Call([]reflect.Value{reflect.ValueOf(context.Background()), reflect.ValueOf(in)})
	err, _ = res[1].Interface().(error)
	return sent, res[0], err
}

func TestGoldenRequests(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/ec2").Output()
	if err != nil {
		t.Fatalf("find the SDK: %v", err)
	}
	for _, op := range operations(t) {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel() // the plans are shared
			raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "request_snapshot", op.name+".request.snap"))
			if err != nil {
				t.Fatal(err)
			}
			want, err := url.ParseQuery(string(raw[bytes.LastIndexByte(raw, '\n')+1:]))
			if err != nil {
				t.Fatal(err)
			}
			in := reflect.New(op.in).Interface()
			if err := Decode(want, in); err != nil {
				t.Fatal(err)
			}
			got, _, err := call(op.name, in, []byte("<r/>"))
			if err != nil {
				t.Fatal(err)
			}
			// The one parameter with no exported field; the client fills it in anew.
			if lost := lostParam(op.in.Name()); lost != "" {
				want.Del(lost)
				got.Del(lost)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("sent again:\n got %v\nwant %v", got, want)
			}
		})
	}
}

func TestGoldenResponses(t *testing.T) {
	for _, op := range operations(t) {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel() // the plans are shared
			in, want := filled(op.in), filled(op.out)
			var b bytes.Buffer
			if err := Encode(&b, op.name, "req-1", want.Interface()); err != nil {
				t.Fatal(err)
			}
			_, got, err := call(op.name, in.Interface(), b.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			got.Elem().FieldByName("ResultMetadata").SetZero()
			if !reflect.DeepEqual(got.Interface(), want.Interface()) {
				g, _ := json.Marshal(got.Interface())
				w, _ := json.Marshal(want.Interface())
				t.Errorf("read by the SDK:\n got %s\nwant %s", g, w)
			}
		})
	}
}

// filler sets every field of a value, two elements a list, down to types that
// hold themselves. Each scalar is another one, so that fields that are mistaken
// for one another show.
type filler struct{ n int64 }

func (f *filler) fill(v reflect.Value, path []reflect.Type) {
	f.n++
	t := v.Type()
	if t == timeType {
		v.Set(reflect.ValueOf(time.Date(2020, 1, 2, 3, 4, 5, 678e6, time.UTC).Add(time.Duration(f.n) * time.Second)))
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		e := reflect.New(t.Elem())
		f.fill(e.Elem(), path)
		v.Set(e)
	case reflect.Struct:
		if slices.Contains(path, t) {
			return
		}
		for i := range t.NumField() {
			if onWire(t.Field(i)) {
				f.fill(v.Field(i), append(path[:len(path):len(path)], t))
			}
		}
	case reflect.Slice:
		if !isList(t) {
			v.SetBytes(fmt.Appendf(nil, "\x00\xff%d", f.n))
			return
		}
		v.Set(reflect.MakeSlice(t, 2, 2))
		f.fill(v.Index(0), path)
		f.fill(v.Index(1), path)
	case reflect.String:
		v.SetString(fmt.Sprintf(" %d <b&c>\"ü\"\n", f.n))
	case reflect.Bool:
		v.SetBool(f.n%2 == 0)
	case reflect.Int32, reflect.Int64:
		v.SetInt(-f.n)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(f.n) + 0.5)
	default:
		panic("no value for " + t.String())
	}
}

// filled returns a pointer to a filled t.
func filled(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	new(filler).fill(v.Elem(), nil)
	return v
}
