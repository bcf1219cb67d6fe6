package sigv4

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// The SDK's signer is the oracle: what it signs must pass, and must no longer
// pass once anything was changed.

const (
	testKey    = "AKIDEXAMPLE"
	testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

var testNow = time.Date(2026, 3, 1, 23, 59, 50, 0, time.UTC)

func testLookup(id string) (Credential, bool) {
	return Credential{testKey, testSecret, "123456789012"}, id == testKey
}

// shape is a request to be signed.
type shape struct {
	name, method, url, body string
	header                  http.Header
	service, token          string
	payload                 string // stated hash, else that of the body
}

var shapes = []shape{
	{
		name: "post form", method: "POST", url: "http://127.0.0.1:8773/", body: "Action=DescribeVolumes&Version=2016-11-15",
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded; charset=utf-8"}},
	},
	{name: "no path", method: "POST", url: "http://ec2.example", body: "Action=RunInstances"},
	{name: "get with query", method: "GET", url: "http://localhost:8773/?Version=2016-11-15&Action=DescribeInstances&Filter.1.Value.1=a%20b%2Bc%26d&Empty="},
	{name: "query order by value", method: "GET", url: "http://h/?b=2&a=z&a=b&a-b=1&A=0&a%2F=4"},
	{name: "plus is a space", method: "GET", url: "http://h/?q=a+b&q=a%2Bb"},
	{name: "unicode", method: "GET", url: "http://h/sn%C3%A4p/%E2%82%AC?n%C3%A4me=%E6%97%A5%E6%9C%AC&t=~-_.*!'()"},
	{name: "path with escapes", method: "GET", url: "http://h/a%2Fb/c%20d/e:f/g@h/%25"},
	{name: "trailing slash", method: "PUT", url: "http://h/snapshots/snap-1/blocks/", body: "x"},
	{
		name: "folded headers", method: "POST", url: "http://h/", body: "b",
		header: http.Header{"My-Header": {"  a   b  c ", "second,  value"}, "X-Amz-Target": {"AmazonSSM.GetParameter"}},
	},
	{name: "session token", method: "POST", url: "http://h/", body: "b", token: "tok/en=="},
	{name: "sts", method: "POST", url: "http://h/", body: "Action=GetCallerIdentity", service: "sts"},
	{
		name: "s3 path as sent", method: "GET", url: "http://h/bucket//a/../key%20with%2Bplus", service: "s3",
		payload: unsignedPayload, header: http.Header{"X-Amz-Content-Sha256": {unsignedPayload}},
	},
	{name: "stated hash", method: "POST", url: "http://h/", body: "b", header: http.Header{"X-Amz-Content-Sha256": {hashOf("b")}}},
	{
		name: "unsigned body of ebs", method: "PUT", url: "http://h/snapshots/s/blocks/1", body: "b", service: "ebs",
		payload: unsignedPayload, header: http.Header{"X-Amz-Content-Sha256": {unsignedPayload}},
	},
	{name: "empty body", method: "DELETE", url: "http://h/"},
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// unsigned returns the client's request of a shape.
func (s shape) unsigned(t testing.TB) *http.Request {
	r, err := http.NewRequest(s.method, s.url, strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range s.header {
		r.Header[k] = append([]string(nil), v...)
	}
	return r
}

func (s shape) serviceName() string {
	if s.service == "" {
		return "ec2"
	}
	return s.service
}

func (s shape) hash() string {
	if s.payload != "" {
		return s.payload
	}
	return hashOf(s.body)
}

func (s shape) options(o *v4.SignerOptions) { o.DisableURIPathEscaping = s.service == "s3" }

func (s shape) signed(t testing.TB, at time.Time, secret string) *http.Request {
	r := s.unsigned(t)
	cred := aws.Credentials{AccessKeyID: testKey, SecretAccessKey: secret, SessionToken: s.token}
	if err := v4.NewSigner().SignHTTP(context.Background(), cred, r, s.hash(), s.serviceName(), "us-east-1", at, s.options); err != nil {
		t.Fatal(err)
	}
	return r
}

func (s shape) presigned(t testing.TB, at time.Time, expires string) *http.Request {
	r := s.unsigned(t)
	if expires != "" {
		q := r.URL.Query()
		q.Set("X-Amz-Expires", expires)
		r.URL.RawQuery = q.Encode()
	}
	cred := aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret, SessionToken: s.token}
	signed, header, err := v4.NewSigner().PresignHTTP(context.Background(), cred, r, s.hash(), s.serviceName(), "us-east-1", at, s.options)
	if err != nil {
		t.Fatal(err)
	}
	p, err := http.NewRequest(s.method, signed, strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		if k != "Host" && k != "Content-Length" {
			p.Header[k] = v
		}
	}
	return p
}

// received returns r as Go's server reads it from a connection, and its body.
func received(t testing.TB, r *http.Request) (*http.Request, []byte) {
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got, body
}

// kindOf is zero for no error.
func kindOf(t testing.TB, err error) Kind {
	if err == nil {
		return 0
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("not an *Error: %v", err)
	}
	if strings.Contains(e.Error(), testSecret) {
		t.Fatalf("the message tells the secret: %v", e)
	}
	return e.Kind
}

func TestSignedBySDK(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			want := Identity{testKey, "123456789012", "us-east-1", s.serviceName()}
			r, body := received(t, s.signed(t, testNow, testSecret))
			if id, err := Verify(r, body, testNow, testLookup); err != nil || id != want {
				t.Errorf("header form: %+v, %v", id, err)
			}
			r, body = received(t, s.presigned(t, testNow, "60"))
			if id, err := Verify(r, body, testNow, testLookup); err != nil || id != want {
				t.Errorf("presigned form: %+v, %v\n%s", id, err, r.URL)
			}
		})
	}
}

func TestWrongKeyIsRefused(t *testing.T) {
	s := shapes[0]
	r, body := received(t, s.signed(t, testNow, testSecret+"x"))
	_, err := Verify(r, body, testNow, testLookup)
	if k := kindOf(t, err); k != BadSignature {
		t.Errorf("wrong secret: %v", err)
	}
	r, body = received(t, s.signed(t, testNow, testSecret))
	_, err = Verify(r, body, testNow, func(string) (Credential, bool) { return Credential{}, false })
	if k := kindOf(t, err); k != UnknownKey {
		t.Errorf("unknown key: %v", err)
	}
	var e *Error
	if errors.As(err, &e); e.Service != "ec2" {
		t.Errorf("claimed service %q", e.Service)
	}
}

// TestTampered changes a request after it was signed, in one place each time.
func TestTampered(t *testing.T) {
	s := shape{
		method: "POST", url: "http://127.0.0.1:8773/a/b?x=1&y=2", body: "Action=TerminateInstances&InstanceId.1=i-1",
		header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "X-Amz-Target": {"S.A"}}, token: "t",
	}
	inAuth := func(old, repl string) func(*http.Request, *[]byte) {
		return func(r *http.Request, _ *[]byte) {
			a := r.Header.Get("Authorization")
			if !strings.Contains(a, old) {
				panic("nothing to change: " + a)
			}
			r.Header.Set("Authorization", strings.Replace(a, old, repl, 1))
		}
	}
	header := func(name, value string) func(*http.Request, *[]byte) {
		return func(r *http.Request, _ *[]byte) { r.Header.Set(name, value) }
	}
	tests := []struct {
		name   string
		tamper func(*http.Request, *[]byte)
		want   Kind
	}{
		{"method", func(r *http.Request, _ *[]byte) { r.Method = "PUT" }, BadSignature},
		{"path", func(r *http.Request, _ *[]byte) { r.URL.Path = "/a/c" }, BadSignature},
		{"path escaped otherwise", func(r *http.Request, _ *[]byte) { r.URL.Path, r.URL.RawPath = "/a/b", "/a%2Fb" }, BadSignature},
		{"query value", func(r *http.Request, _ *[]byte) { r.URL.RawQuery = "x=1&y=3" }, BadSignature},
		{"query added", func(r *http.Request, _ *[]byte) { r.URL.RawQuery += "&z" }, BadSignature},
		{"query removed", func(r *http.Request, _ *[]byte) { r.URL.RawQuery = "x=1" }, BadSignature},
		{"query reordered is the same", func(r *http.Request, _ *[]byte) { r.URL.RawQuery = "y=2&x=1" }, 0},
		{"body", func(_ *http.Request, b *[]byte) { *b = append(*b, '1') }, BadSignature},
		{"body gone", func(_ *http.Request, b *[]byte) { *b = nil }, BadSignature},
		{"host", func(r *http.Request, _ *[]byte) { r.Host = "127.0.0.1:8774" }, BadSignature},
		{"signed header", header("Content-Type", "text/plain"), BadSignature},
		{"signed header gone", func(r *http.Request, _ *[]byte) { r.Header.Del("X-Amz-Target") }, BadSignature},
		{"signed header doubled", func(r *http.Request, _ *[]byte) { r.Header.Add("X-Amz-Target", "S.B") }, BadSignature},
		{"unsigned amz header added", header("X-Amz-Meta-Evil", "1"), BadSignature},
		{"another header added", header("X-Forwarded-For", "1.2.3.4"), 0},
		{"session token", header("X-Amz-Security-Token", "u"), BadSignature},
		{"time within the window", header("X-Amz-Date", "20260301T235951Z"), BadSignature},
		{"time of another day", header("X-Amz-Date", "20260302T000001Z"), BadSignature},
		{"hash of another body", header("X-Amz-Content-Sha256", hashOf("x")), BadSignature},
		{"body declared unsigned", header("X-Amz-Content-Sha256", unsignedPayload), BadSignature},
		{"region", inAuth("us-east-1", "us-east-2"), BadSignature},
		{"service", inAuth("/ec2/", "/sts/"), BadSignature},
		{"service whose bodies may be unsigned", inAuth("/ec2/", "/ebs/"), BadSignature},
		{"scope's date", inAuth("/20260301/", "/20260302/"), BadSignature},
		{"key", inAuth(testKey, "AKIDOTHER"), UnknownKey},
		{"fewer signed headers", inAuth("content-type;", ""), BadSignature},
		{"host not signed", inAuth(";host", ""), Malformed},
		{"target not signed", inAuth(";x-amz-target", ""), BadSignature},
		{"signature", inAuth("Signature=", "Signature=00"), Malformed},
		{"algorithm", inAuth("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), Malformed},
		{"terminator", inAuth("aws4_request", "aws5_request"), Malformed},
		{"region that is no name", inAuth("us-east-1", "US_EAST"), Malformed},
		{"scope with a part more", inAuth("us-east-1", "a/b"), Malformed},
		{"part doubled", inAuth("Signature=", "Credential=a, Signature="), Malformed},
		{"authorization gone", func(r *http.Request, _ *[]byte) { r.Header.Del("Authorization") }, Missing},
		{"authorization doubled", func(r *http.Request, _ *[]byte) { r.Header.Add("Authorization", "x") }, Malformed},
		{"authorization of another sort", header("Authorization", "Basic eA=="), Malformed},
		{"both forms", func(r *http.Request, _ *[]byte) { r.URL.RawQuery += "&X-Amz-Signature=00" }, Malformed},
		{"no time", func(r *http.Request, _ *[]byte) { r.Header.Del("X-Amz-Date") }, Malformed},
		{"time unreadable", header("X-Amz-Date", "yesterday"), Malformed},
		{"query unreadable", func(r *http.Request, _ *[]byte) { r.URL.RawQuery += "&%zz" }, Malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, body := received(t, s.signed(t, testNow, testSecret))
			tt.tamper(r, &body)
			_, err := Verify(r, body, testNow, testLookup)
			if k := kindOf(t, err); k != tt.want {
				t.Errorf("kind %d, want %d: %v", k, tt.want, err)
			}
		})
	}
}

func TestTamperedPresigned(t *testing.T) {
	s := shape{method: "GET", url: "http://h/?Action=DescribeInstances"}
	set := func(name, value string) func(url.Values) { return func(q url.Values) { q.Set(name, value) } }
	tests := []struct {
		name   string
		tamper func(url.Values)
		want   Kind
	}{
		{"nothing", func(url.Values) {}, 0},
		{"action", set("Action", "TerminateInstances"), BadSignature},
		{"lifetime", set("X-Amz-Expires", "600"), BadSignature},
		{"lifetime gone", func(q url.Values) { q.Del("X-Amz-Expires") }, BadSignature},
		{"lifetime too long", set("X-Amz-Expires", "604801"), Malformed},
		{"lifetime zero", set("X-Amz-Expires", "0"), Malformed},
		{"lifetime doubled", func(q url.Values) { q.Add("X-Amz-Expires", "60") }, Malformed},
		{"time", set("X-Amz-Date", "20260301T235951Z"), BadSignature},
		{"hash declared", set("X-Amz-Content-Sha256", unsignedPayload), BadSignature},
		{"signature", set("X-Amz-Signature", strings.Repeat("0", 64)), BadSignature},
		{"signature gone", func(q url.Values) { q.Del("X-Amz-Signature") }, Malformed},
		{"algorithm", set("X-Amz-Algorithm", "none"), Malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, body := received(t, s.presigned(t, testNow, "60"))
			q := r.URL.Query()
			tt.tamper(q)
			r.URL.RawQuery = q.Encode()
			_, err := Verify(r, body, testNow, testLookup)
			if k := kindOf(t, err); k != tt.want {
				t.Errorf("kind %d, want %d: %v", k, tt.want, err)
			}
		})
	}
}

func TestTime(t *testing.T) {
	s := shapes[2]
	tests := []struct {
		name    string
		expires string // presigned if not empty; "none" without a lifetime
		after   time.Duration
		want    Kind
	}{
		{"14 minutes old", "", 14 * time.Minute, 0},
		{"16 minutes old", "", 16 * time.Minute, Expired},
		{"14 minutes ahead", "", -14 * time.Minute, 0},
		{"16 minutes ahead", "", -16 * time.Minute, Expired},
		{"presigned at its end", "60", time.Minute, 0},
		{"presigned after its end", "60", 61 * time.Second, Expired},
		{"presigned for a week", "604800", 6 * 24 * time.Hour, 0},
		{"presigned far ahead", "604800", -16 * time.Minute, Expired},
		{"presigned without end", "none", 14 * time.Minute, 0},
		{"presigned without end, old", "none", 16 * time.Minute, Expired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := s.signed(t, testNow, testSecret)
			if tt.expires != "" {
				r = s.presigned(t, testNow, strings.TrimPrefix(tt.expires, "none"))
			}
			got, body := received(t, r)
			_, err := Verify(got, body, testNow.Add(tt.after), testLookup)
			if k := kindOf(t, err); k != tt.want {
				t.Errorf("kind %d, want %d: %v", k, tt.want, err)
			}
		})
	}
}

// TestPublishedVector is the first example of AWS's own test suite for the
// signature (get-vanilla), an oracle that is not the SDK.
func TestPublishedVector(t *testing.T) {
	r, err := http.NewRequest("GET", "http://example.amazonaws.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "+
		"SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")
	lookup := func(string) (Credential, bool) {
		return Credential{SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}, true
	}
	if _, err := Verify(r, nil, time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC), lookup); err != nil {
		t.Error(err)
	}
}

func FuzzVerify(f *testing.F) {
	for _, s := range shapes {
		r := s.signed(f, testNow, testSecret)
		f.Add(r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Authorization"), r.Header.Get("X-Amz-Date"), []byte(s.body))
		p := s.presigned(f, testNow, "60")
		f.Add(p.Method, p.URL.EscapedPath(), p.URL.RawQuery, "", "", []byte(s.body))
	}
	f.Fuzz(func(t *testing.T, method, path, query, auth, date string, body []byte) {
		r := &http.Request{Method: method, Host: "h", Header: http.Header{}, URL: &url.URL{Path: path, RawQuery: query}}
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		if date != "" {
			r.Header.Set("X-Amz-Date", date)
		}
		_, err := Verify(r, body, testNow, testLookup)
		if kindOf(t, err) == 0 {
			return // a signature of the seeds
		}
	})
}
