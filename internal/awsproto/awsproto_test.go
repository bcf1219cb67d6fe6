package awsproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
)

// The SDK's clients are the oracle: a server that answers with these functions
// must be understood by them.

var credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
})

// serve answers every request with what answer writes.
func serve(t *testing.T, status int, contentType string, answer func(w io.Writer, r *http.Request, body []byte) error) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		if err := answer(w, r, body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func stsClient(url string) *sts.Client {
	return sts.New(sts.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: credentials, RetryMaxAttempts: 1})
}

func ssmClient(url string) *ssm.Client {
	return ssm.New(ssm.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: credentials, RetryMaxAttempts: 1})
}

func TestQueryResponse(t *testing.T) {
	want := &sts.GetCallerIdentityOutput{
		Account: aws.String("123456789012"), Arn: aws.String("arn:aws:iam::123456789012:root"), UserId: aws.String("a<b>&c"),
	}
	url := serve(t, 200, "text/xml", func(w io.Writer, _ *http.Request, body []byte) error {
		if !strings.Contains(string(body), "Action=GetCallerIdentity") {
			t.Errorf("body %s", body)
		}
		return EncodeQuery(w, STSNamespace, "GetCallerIdentity", "req-1", want)
	})
	got, err := stsClient(url).GetCallerIdentity(context.Background(), &sts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatal(err)
	}
	got.ResultMetadata = want.ResultMetadata
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestQueryStructures(t *testing.T) {
	want := &sts.AssumeRoleOutput{
		AssumedRoleUser:  &ststypes.AssumedRoleUser{Arn: aws.String("arn"), AssumedRoleId: aws.String("id")},
		Credentials:      &ststypes.Credentials{AccessKeyId: aws.String("k"), SecretAccessKey: aws.String("s"), SessionToken: aws.String("t"), Expiration: aws.Time(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))},
		PackedPolicySize: aws.Int32(7),
	}
	url := serve(t, 200, "text/xml", func(w io.Writer, _ *http.Request, _ []byte) error {
		return EncodeQuery(w, STSNamespace, "AssumeRole", "req-1", want)
	})
	got, err := stsClient(url).AssumeRole(context.Background(), &sts.AssumeRoleInput{RoleArn: aws.String("arn"), RoleSessionName: aws.String("me")})
	if err != nil {
		t.Fatal(err)
	}
	got.ResultMetadata = want.ResultMetadata
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestQueryBodyIsExact(t *testing.T) {
	var b bytes.Buffer
	if err := EncodeQuery(&b, STSNamespace, "GetCallerIdentity", "r", &sts.GetCallerIdentityOutput{Account: aws.String("1")}); err != nil {
		t.Fatal(err)
	}
	want := `<?xml version="1.0" encoding="UTF-8"?>
<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Account>1</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>`
	if b.String() != want {
		t.Errorf("got  %s\nwant %s", b.String(), want)
	}
}

func TestQueryError(t *testing.T) {
	for status, fault := range map[int]string{403: "Sender", 500: "Receiver"} {
		var raw bytes.Buffer
		url := serve(t, status, "text/xml", func(w io.Writer, _ *http.Request, _ []byte) error {
			return EncodeQueryError(io.MultiWriter(w, &raw), STSNamespace, "req-1", status, "InvalidClientTokenId", "no <such> token")
		})
		_, err := stsClient(url).GetCallerIdentity(context.Background(), &sts.GetCallerIdentityInput{})
		checkAPIError(t, err, "InvalidClientTokenId", "no <such> token")
		if !strings.Contains(raw.String(), "<Type>"+fault+"</Type>") {
			t.Errorf("status %d: %s", status, raw.String())
		}
	}
}

func checkAPIError(t *testing.T, err error, code, message string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code || api.ErrorMessage() != message {
		t.Errorf("error %v", err)
	}
}

func TestJSON(t *testing.T) {
	want := &ssm.GetParameterOutput{Parameter: &ssmtypes.Parameter{
		ARN: aws.String("arn"), DataType: aws.String("text"), Name: aws.String("/aws/service/x"), Type: ssmtypes.ParameterTypeString,
		Value: aws.String("ami-1 \"<ü>"), Version: 1 << 60, LastModifiedDate: aws.Time(time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)),
	}}
	url := serve(t, 200, JSONContentType, func(w io.Writer, r *http.Request, body []byte) error {
		if service, action, ok := JSONTarget(r.Header); !ok || service != "AmazonSSM" || action != "GetParameter" {
			t.Errorf("target %s, %s, %v", service, action, ok)
		}
		var in ssm.GetParameterInput
		if err := DecodeJSON(body, &in); err != nil || aws.ToString(in.Name) != "/aws/service/x" || !aws.ToBool(in.WithDecryption) {
			t.Errorf("input %+v, %v", in, err)
		}
		return EncodeJSON(w, want)
	})
	got, err := ssmClient(url).GetParameter(context.Background(), &ssm.GetParameterInput{Name: aws.String("/aws/service/x"), WithDecryption: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	got.ResultMetadata = want.ResultMetadata
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got.Parameter)
	}
}

func TestJSONLists(t *testing.T) {
	want := &ssm.GetParametersByPathOutput{Parameters: []ssmtypes.Parameter{{Name: aws.String("a")}, {Name: aws.String("b")}}}
	filters := []ssmtypes.ParameterStringFilter{{Key: aws.String("Type"), Option: aws.String("Equals"), Values: []string{"String", "x"}}}
	url := serve(t, 200, JSONContentType, func(w io.Writer, _ *http.Request, body []byte) error {
		var in ssm.GetParametersByPathInput
		if err := DecodeJSON(body, &in); err != nil || !reflect.DeepEqual(in.ParameterFilters, filters) || aws.ToInt32(in.MaxResults) != 5 {
			t.Errorf("input %+v, %v", in, err)
		}
		return EncodeJSON(w, want)
	})
	got, err := ssmClient(url).GetParametersByPath(context.Background(), &ssm.GetParametersByPathInput{
		Path: aws.String("/"), ParameterFilters: filters, MaxResults: aws.Int32(5),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Parameters, want.Parameters) {
		t.Errorf("got %+v", got.Parameters)
	}
}

func TestJSONError(t *testing.T) {
	url := serve(t, 400, JSONContentType, func(w io.Writer, _ *http.Request, _ []byte) error {
		return EncodeJSONError(w, "ParameterNotFound", "no \"x\"")
	})
	_, err := ssmClient(url).GetParameter(context.Background(), &ssm.GetParameterInput{Name: aws.String("x")})
	checkAPIError(t, err, "ParameterNotFound", "no \"x\"")
	var typed *ssmtypes.ParameterNotFound
	if !errors.As(err, &typed) {
		t.Errorf("not the SDK's own type: %v", err)
	}
}

func TestJSONRefusals(t *testing.T) {
	for _, body := range []string{"{", `{"Name": 1}`, `[]`, `{"Name":"a"} x`} {
		if err := DecodeJSON([]byte(body), new(ssm.GetParameterInput)); err == nil {
			t.Errorf("%s: no error", body)
		}
	}
	for _, body := range []string{"", " \n", "{}", `{"Name":null,"Other":[1]}`} {
		if err := DecodeJSON([]byte(body), new(ssm.GetParameterInput)); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	for _, target := range []string{"", "AmazonSSM", ".GetParameter", "AmazonSSM."} {
		if _, _, ok := JSONTarget(http.Header{"X-Amz-Target": {target}}); ok {
			t.Errorf("target %q taken", target)
		}
	}
}

func TestNotAnOutput(t *testing.T) {
	for _, out := range []any{nil, "x", sts.GetCallerIdentityOutput{}, (*sts.GetCallerIdentityOutput)(nil)} {
		if err := EncodeQuery(io.Discard, "n", "A", "r", out); err == nil {
			t.Errorf("EncodeQuery(%T): no error", out)
		}
		if err := EncodeJSON(io.Discard, out); err == nil {
			t.Errorf("EncodeJSON(%T): no error", out)
		}
	}
}

func FuzzDecodeJSON(f *testing.F) {
	f.Add([]byte(`{"Path":"/","MaxResults":1,"ParameterFilters":[{"Key":"a","Values":["b"]}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var in, again ssm.GetParametersByPathInput
		if DecodeJSON(body, &in) != nil {
			return
		}
		var b bytes.Buffer
		if err := EncodeJSON(&b, &in); err != nil {
			t.Fatal(err)
		}
		if err := DecodeJSON(b.Bytes(), &again); err != nil || !reflect.DeepEqual(in, again) {
			t.Errorf("%s reads back as %+v, want %+v (%v)", b.Bytes(), again, in, err)
		}
	})
}

// A route's input comes from its path, its query, its headers and its body.
func TestRouteDecode(t *testing.T) {
	type input struct {
		ID     *string
		Index  *int32
		Size   *int64
		Kind   string
		Data   io.Reader
		Text   *string
		hidden bool
	}
	route := Route{
		Method: http.MethodPut, Path: "/things/{ID}/{Index}", Action: "PutThing", Payload: "Data",
		Query: map[string]string{"how": "Kind"}, Header: map[string]string{"X-Size": "Size"},
	}
	r := httptest.NewRequest(http.MethodPut, "/things/a%2Fb/7?how=fast&other=1", http.NoBody)
	r.Header.Set("X-Size", "9000000000")
	found, path, ok := FindRoute([]Route{route}, r)
	var in input
	if err := found.Decode(&in, r, []byte("body"), path); err != nil || !ok || *in.ID != "a/b" || *in.Index != 7 || *in.Size != 9e9 || in.Kind != "fast" || in.hidden {
		t.Fatalf("%+v, %v", in, err)
	}
	if body, err := io.ReadAll(in.Data); err != nil || string(body) != "body" {
		t.Errorf("the payload is %q", body)
	}
	route.Payload = ""
	in = input{}
	if err := route.Decode(&in, r, []byte(`{"Text":"x"}`), path); err != nil || *in.Text != "x" || in.Data != nil {
		t.Errorf("%+v, %v", in, err)
	}
	for _, index := range []string{"x", "1.5", "9000000000", ""} {
		if err := route.Decode(&input{}, r, nil, map[string]string{"Index": index}); err == nil {
			t.Errorf("the index %q is taken", index)
		}
	}
}
