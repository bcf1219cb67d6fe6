package cloud

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/steadcloud/stead/internal/awsproto"
	"github.com/steadcloud/stead/internal/ec2query"
	"github.com/steadcloud/stead/internal/sigv4"
	"github.com/steadcloud/stead/internal/state"
)

// maxBody bounds a request; EC2's largest parameter is 16 KiB of user data.
const maxBody = 4 << 20

// caller is who a request speaks for.
type caller struct {
	state.Scope
	AccessKeyID string
}

type callerKey struct{}

// from gives the caller of the request that ctx belongs to.
func from(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// WithCaller makes ctx speak for an account in a region, as the dispatcher
// does with a signature's; for calls from inside the process.
func WithCaller(ctx context.Context, s state.Scope) context.Context {
	return context.WithValue(ctx, callerKey{}, caller{Scope: s})
}

// action is one decoded-and-called API action: it gets its input filled by
// decode and gives its output.
type action func(ctx context.Context, decode func(in any) error) (out any, err error)

// handle makes an action of a plain handler. A dry run stops after decoding:
// every caller here may do everything, which is all that EC2's dry run says.
func handle[I, O any](f func(context.Context, *I) (*O, error)) action {
	return func(ctx context.Context, decode func(any) error) (any, error) {
		in := new(I)
		if err := decode(in); err != nil {
			return nil, err
		}
		if dryRun(in) {
			return nil, errDryRun
		}
		return f(ctx, in)
	}
}

func dryRun(in any) bool {
	f := reflect.ValueOf(in).Elem().FieldByName("DryRun")
	if !f.IsValid() || f.Kind() != reflect.Pointer || f.IsNil() {
		return false
	}
	return f.Elem().Kind() == reflect.Bool && f.Elem().Bool()
}

// protocol is how one AWS service writes answers. One listener serves all; the
// signature's scope says which service a request is for.
type protocol interface {
	// parse gives the action's name and a decoder for its input.
	parse(r *http.Request, body []byte) (name string, decode func(any) error, err error)
	encode(w io.Writer, action, requestID string, out any) error
	fault(w io.Writer, requestID string, e *apiError) error
	contentType() string
}

// ServeHTTP answers API requests and /healthz.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		_, _ = io.WriteString(w, "ok\n")
		return
	}
	requestID := newRequestID()
	body, err := readBody(w, r)
	if err != nil {
		c.answerFault(w, ec2Protocol{}, requestID, &apiError{Code: "RequestTooLarge", Message: err.Error(), Status: http.StatusRequestEntityTooLarge})
		return
	}
	id, err := sigv4.Verify(r, body, c.now(), c.credential)
	if err != nil {
		c.answerFault(w, guessProtocol(r, err), requestID, asAPIError(err))
		return
	}
	c.serve(w, r, body, requestID, id)
}

// readBody reads a request's body, at once where its length is known.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	in := http.MaxBytesReader(w, r.Body, maxBody)
	if r.ContentLength <= 0 || r.ContentLength > maxBody {
		return io.ReadAll(in)
	}
	body := make([]byte, r.ContentLength)
	_, err := io.ReadFull(in, body)
	return body, err
}

func (c *Cloud) serve(w http.ResponseWriter, r *http.Request, body []byte, requestID string, id sigv4.Identity) {
	proto, actions, err := c.service(id.Service)
	if err != nil {
		c.answerFault(w, guessProtocol(r, err), requestID, asAPIError(err))
		return
	}
	scope := state.Scope{Account: id.Account, Region: id.Region}
	start := time.Now()
	name, out, err := c.call(r, proto, actions, caller{scope, id.AccessKeyID}, body)
	log := c.log.With("action", name, "region", id.Region, "ms", time.Since(start).Milliseconds(), "request", requestID)
	if err == nil {
		var a answer
		if a, err = respond(proto, name, requestID, out); err == nil {
			log.Debug("answered")
			c.answer(w, requestID, a)
			return
		}
	}
	api := asAPIError(err)
	log.Info("refused", "code", api.Code, "message", api.Message)
	c.answerFault(w, proto, requestID, api)
}

func (c *Cloud) call(r *http.Request, proto protocol, actions map[string]action, who caller, body []byte) (name string, out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("handler failed", "action", name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: %v", name, p)
		}
	}()
	name, decode, err := proto.parse(r, body)
	if err != nil {
		return name, nil, err
	}
	f, ok := actions[name]
	if !ok {
		return name, nil, fail("InvalidAction", "The action %s is not valid for this web service.", name)
	}
	if !isRegion(who.Region) {
		return name, nil, &apiError{Code: "AuthFailure", Message: fmt.Sprintf("Credential should be scoped to a valid region, not '%s'.", who.Region), Status: http.StatusUnauthorized}
	}
	if err := c.ensureRegion(who.Scope); err != nil {
		return name, nil, err
	}
	out, err = f(context.WithValue(r.Context(), callerKey{}, who), decode)
	return name, out, err
}

func (c *Cloud) service(name string) (protocol, map[string]action, error) {
	switch name {
	case "ec2":
		return ec2Protocol{}, c.ec2Actions, nil
	case "sts":
		return stsProtocol{}, c.stsActions, nil
	case "ssm":
		return ssmProtocol{}, c.ssmActions, nil
	case "dlm":
		return restProtocol{dlmRoutes, dlmInvalid}, c.dlmActions, nil
	case "rbin":
		return restProtocol{binRoutes, binInvalid}, c.binActions, nil
	case "ebs":
		return ebsProtocol{}, c.ebsActions, nil
	}
	return nil, nil, fail("UnknownService", "The service '%s' is not served here; ec2, ebs, sts, ssm, dlm and rbin are.", name)
}

// guessProtocol picks the shape of an error for a request that was refused
// before its service was known, or for a service that is not served.
func guessProtocol(r *http.Request, err error) protocol {
	if _, _, ok := awsproto.JSONTarget(r.Header); ok {
		return ssmProtocol{}
	}
	var sig *sigv4.Error
	if errors.As(err, &sig) && sig.Service == "sts" {
		return stsProtocol{}
	}
	if errors.As(err, &sig) && (sig.Service == "dlm" || sig.Service == "rbin") {
		return restProtocol{}
	}
	if errors.As(err, &sig) && sig.Service == "ebs" {
		return ebsProtocol{}
	}
	return ec2Protocol{}
}

func (c *Cloud) answerFault(w http.ResponseWriter, proto protocol, requestID string, e *apiError) {
	if p, ok := proto.(translator); ok {
		e = p.translate(e)
	}
	var buf bytes.Buffer
	if err := proto.fault(&buf, requestID, e); err != nil {
		c.log.Error("cannot write an error", "code", e.Code, "err", err)
	}
	c.answer(w, requestID, answer{status: e.status(), contentType: proto.contentType(), body: buf.Bytes()})
}

// answer is what goes back to a client.
type answer struct {
	status      int
	contentType string
	header      map[string]string
	body        []byte
}

// translator is a protocol with its own names for errors that all share.
type translator interface {
	translate(e *apiError) *apiError
}

// responder is a protocol whose answers are more than a body and 200.
type responder interface {
	respond(action string, out any) (answer, error)
}

func respond(proto protocol, action, requestID string, out any) (answer, error) {
	if p, ok := proto.(responder); ok {
		return p.respond(action, out)
	}
	var buf bytes.Buffer
	err := proto.encode(&buf, action, requestID, out)
	return answer{status: http.StatusOK, contentType: proto.contentType(), body: buf.Bytes()}, err
}

func (c *Cloud) answer(w http.ResponseWriter, requestID string, a answer) {
	h := w.Header()
	for name, value := range a.header {
		h.Set(name, value)
	}
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	h.Set("X-Amzn-Requestid", requestID)
	h.Set("Server", "stead")
	w.WriteHeader(a.status)
	if _, err := w.Write(a.body); err != nil {
		c.log.Debug("client went away", "request", requestID, "err", err)
	}
}

func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// formOf joins a GET's query and a POST's form, as EC2 takes both.
func formOf(r *http.Request, body []byte) (url.Values, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fail("MalformedQueryString", "The request's form cannot be read: %v", err)
	}
	for k, v := range r.URL.Query() {
		form[k] = append(form[k], v...)
	}
	return form, nil
}

func parseQuery(r *http.Request, body []byte) (string, func(any) error, error) {
	form, err := formOf(r, body)
	if err != nil {
		return "", nil, err
	}
	name := form.Get("Action")
	if name == "" {
		return "", nil, fail("MissingAction", "The request must contain the parameter Action")
	}
	return name, func(in any) error { return ec2query.Decode(form, in) }, nil
}

type ec2Protocol struct{}

func (ec2Protocol) parse(r *http.Request, body []byte) (string, func(any) error, error) {
	return parseQuery(r, body)
}

func (ec2Protocol) encode(w io.Writer, action, requestID string, out any) error {
	return ec2query.Encode(w, action, requestID, out)
}

func (ec2Protocol) fault(w io.Writer, requestID string, e *apiError) error {
	return ec2query.EncodeError(w, requestID, e.Code, e.Message)
}
func (ec2Protocol) contentType() string { return "text/xml;charset=UTF-8" }

type stsProtocol struct{}

func (stsProtocol) parse(r *http.Request, body []byte) (string, func(any) error, error) {
	return parseQuery(r, body)
}

func (stsProtocol) encode(w io.Writer, action, requestID string, out any) error {
	return awsproto.EncodeQuery(w, awsproto.STSNamespace, action, requestID, out)
}

func (stsProtocol) fault(w io.Writer, requestID string, e *apiError) error {
	return awsproto.EncodeQueryError(w, awsproto.STSNamespace, requestID, e.status(), e.Code, e.Message)
}
func (stsProtocol) contentType() string { return "text/xml" }

type ssmProtocol struct{}

func (ssmProtocol) parse(r *http.Request, body []byte) (string, func(any) error, error) {
	_, name, ok := awsproto.JSONTarget(r.Header)
	if !ok {
		return "", nil, errors.New("the request names no action in X-Amz-Target")
	}
	return name, func(in any) error { return awsproto.DecodeJSON(body, in) }, nil
}

func (ssmProtocol) encode(w io.Writer, _, _ string, out any) error {
	return awsproto.EncodeJSON(w, out)
}

func (ssmProtocol) fault(w io.Writer, _ string, e *apiError) error {
	return awsproto.EncodeJSONError(w, e.Code, e.Message)
}
func (ssmProtocol) contentType() string { return awsproto.JSONContentType }
