package server

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/steadcloud/stead/internal/blocks"
)

// Kind is what sort of failure an Error is, for exit codes and remedies.
type Kind string

// Kinds of failure.
const (
	KindFailed      Kind = "failed"      // anything without a kind of its own
	KindUsage       Kind = "usage"       // the request makes no sense
	KindAuth        Kind = "auth"        // credentials are wrong, missing or may not
	KindNotFound    Kind = "not-found"   // no such server, disk or image
	KindExists      Kind = "exists"      // the name is taken, or the state forbids it
	KindProtected   Kind = "protected"   // a disk would be at risk
	KindTimeout     Kind = "timeout"     // the same command goes on from there
	KindInterrupted Kind = "interrupted" // the same command goes on from there
	KindCapacity    Kind = "capacity"    // the cloud has no room, or a quota is full
	KindPartial     Kind = "partial"     // done in part; the reason says which
	KindUnsupported Kind = "unsupported" // the endpoint can't
)

// Error is a failure that a person can act on.
type Error struct {
	Op       string // "rescue"
	Resource string // "server web", "vol-0123"
	Reason   string // what is the matter, without the operation
	Remedy   string // a command or an action that mends it, or ""
	Code     Kind
	Err      error // the cause, or nil
}

// Error says what failed, on what and why. The remedy is left to the caller's
// own line.
func (e *Error) Error() string {
	parts := make([]string, 0, 3)
	if head := strings.TrimSpace(e.Op + " " + e.Resource); head != "" {
		parts = append(parts, head)
	}
	if e.Reason != "" {
		parts = append(parts, e.Reason)
	}
	if e.Err != nil {
		parts = append(parts, causeText(e.Err))
	}
	return strings.Join(parts, ": ")
}

// causeText says of a context's end what it means, whatever layer wrapped it.
func causeText(err error) string {
	var inner *Error
	switch {
	case errors.As(err, &inner): // which says so itself
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	}
	return err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrExists) and its like work by kind.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Op == "" && t.Resource == "" && t.Err == nil && t.Code == e.Code
}

// Sentinels to compare kinds with errors.Is.
var (
	ErrUsage       = &Error{Code: KindUsage, Reason: "usage"}
	ErrNotFound    = &Error{Code: KindNotFound, Reason: "not found"}
	ErrExists      = &Error{Code: KindExists, Reason: "exists"}
	ErrProtected   = &Error{Code: KindProtected, Reason: "protected"}
	ErrTimeout     = &Error{Code: KindTimeout, Reason: "timed out"}
	ErrInterrupted = &Error{Code: KindInterrupted, Reason: "interrupted"}
	ErrUnsupported = &Error{Code: KindUnsupported, Reason: "unsupported"}
)

// KindOf returns err's kind: an *Error's own, else what its cause says.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) && e.Code != "" {
		return e.Code
	}
	return classify(err)
}

// wrap adds operation and resource to an error that doesn't name them yet, and
// its kind. An *Error from below keeps its own kind, reason and remedy.
func wrap(op, resource string, err error) error {
	if err == nil {
		return nil
	}
	if carries(err, op, resource) {
		return err
	}
	var e *Error
	if errors.As(err, &e) {
		if e.Op == "" {
			c := *e
			c.Op, c.Resource = op, resource
			return &c
		}
		return &Error{Op: op, Resource: resource, Code: e.Code, Remedy: e.Remedy, Err: err}
	}
	kind := classify(err)
	return &Error{Op: op, Resource: resource, Code: kind, Remedy: cmp.Or(remedyFor(kind), codeRemedy(err)), Err: err}
}

// BlocksError makes an error of a transfer of blocks one of this package.
func BlocksError(err error) error {
	var e *blocks.Error
	if !errors.As(err, &e) {
		return err
	}
	made := &Error{Op: e.Op, Resource: e.Resource, Reason: e.Reason, Remedy: e.Remedy, Code: KindOf(e.Err), Err: e.Err}
	for _, k := range []struct {
		err  error
		kind Kind
	}{
		{blocks.ErrUsage, KindUsage},
		{blocks.ErrFormat, KindUsage},
		{blocks.ErrExists, KindExists},
		{blocks.ErrState, KindExists},
		{blocks.ErrCorrupt, KindFailed},
		{blocks.ErrChanged, KindFailed},
		{fs.ErrNotExist, KindNotFound},
		{fs.ErrPermission, KindAuth},
	} {
		if errors.Is(e.Err, k.err) {
			made.Code = k.kind
			if e.Reason != "" && e.Err == k.err { //nolint:errorlint // unless there is more to the cause, the reason says it better
				made.Err = nil
			}
		}
	}
	if made.Code != KindNotFound || apiCode(e.Err) != "" { // not where a folder is missing
		made.Remedy = cmp.Or(made.Remedy, blocksRemedy(made.Code))
	}
	return made
}

// blocksRemedy is the advice that a kind of failure alone allows.
func blocksRemedy(kind Kind) string {
	switch kind {
	case KindNotFound:
		return "stead snapshots lists the servers' snapshots, stead orphans the others"
	case KindUnsupported:
		return "use a context whose endpoint has the EBS direct APIs: the local cloud or AWS"
	case KindFailed:
		return "the same command again: it goes on from there"
	default:
		return remedyFor(kind)
	}
}

// Remedy is what mends err: the outermost *Error that says so, else what EC2's
// error code allows to say, else "".
func Remedy(err error) string {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if s, ok := e.(*Error); ok && s.Remedy != "" { //nolint:errorlint // each one of the chain in turn
			return s.Remedy
		}
	}
	return codeRemedy(err)
}

// codeRemedy is the advice that EC2's error code allows.
func codeRemedy(err error) string {
	var ae smithy.APIError
	if !errors.As(err, &ae) {
		return ""
	}
	code, text := ae.ErrorCode(), strings.ToLower(ae.ErrorMessage())
	kind, _, _ := strings.Cut(code, ".")
	switch kind {
	case "InvalidAMIID":
		return "stead image ls"
	case "InvalidSnapshot", "InvalidSnapshotID":
		return "stead snapshots"
	case "InvalidVolume", "InvalidVolumeID":
		return "stead volume ls"
	case "OperationNotPermitted":
		if strings.Contains(text, "disableapistop") || strings.Contains(text, "disableapitermination") {
			return "stead unprotect NAME"
		}
	case "InvalidKeyPair":
		return "give --key the file of a public key, or leave it away for stead's own"
	case "InvalidZone":
		return "choose another zone, or leave the choice to the cloud"
	case "InvalidInstanceType":
		return "choose another --type"
	case "InvalidParameterValue":
		if strings.Contains(text, "instancetype") || strings.Contains(text, "instance type") {
			return "choose another --type, such as " + DefaultType
		}
		if strings.Contains(text, "volumetype") || strings.Contains(text, "volume type") {
			return "choose another --type, such as " + string(defaultVolumeType)
		}
	}
	return ""
}

// carries tells whether an error, or one that it wraps, says this already.
func carries(err error, op, resource string) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if e, ok := err.(*Error); ok && e.Op == op && e.Resource == resource { //nolint:errorlint // each one of the chain in turn
			return true
		}
	}
	return false
}

// remedyFor is the advice that a kind alone allows.
func remedyFor(kind Kind) string {
	switch kind {
	case KindAuth:
		return "check the credentials and region of the context"
	case KindTimeout, KindInterrupted:
		return "run the same command again: it goes on from there"
	case KindCapacity:
		return "try another --type, or later"
	default:
		return ""
	}
}

// classify tells the kind of an error that comes from the SDK or the context.
func classify(err error) Kind {
	switch {
	case errors.Is(err, context.Canceled):
		return KindInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return KindTimeout
	}
	if code := apiCode(err); code != "" {
		if kind := codeKind(code); kind != KindFailed {
			return kind
		}
	}
	if unsupported(err) {
		return KindUnsupported
	}
	return KindFailed
}

// codeKind sorts EC2's error codes.
func codeKind(code string) Kind {
	switch code {
	case "AuthFailure", "UnauthorizedOperation", "InvalidClientTokenId", "MissingAuthenticationToken",
		"SignatureDoesNotMatch", "RequestExpired", "OptInRequired", "Blocked", "ExpiredToken", "AccessDeniedException":
		return KindAuth
	case "OperationNotPermitted":
		return KindProtected
	case "IncorrectState", "IncorrectInstanceState", "VolumeInUse":
		return KindExists
	case "InvalidParameterValue", "InvalidParameterCombination", "InvalidParameter", "MissingParameter",
		"InvalidInstanceType", "InvalidVolume.ZoneMismatch", "InvalidBlockDeviceMapping", "ValidationException":
		return KindUsage
	case "InsufficientInstanceCapacity", "InsufficientCapacity", "InsufficientHostCapacity",
		"InsufficientVolumeCapacity", "InsufficientAddressCapacity", "InstanceLimitExceeded",
		"VcpuLimitExceeded", "VolumeLimitExceeded", "MaxIOPSLimitExceeded", "AddressLimitExceeded",
		"SnapshotLimitExceeded", "MaxSpotInstanceCountExceeded":
		return KindCapacity
	case "InvalidAction", "UnsupportedOperation", "Unsupported", "UnknownOperationException":
		return KindUnsupported
	}
	if strings.HasSuffix(code, ".Malformed") {
		return KindUsage
	}
	switch code { // DLM's
	case codeNoPolicy:
		return KindNotFound
	case "InvalidRequestException":
		return KindUsage
	case "LimitExceededException", "ServiceQuotaExceededException", "ConcurrentLimitExceededException": // the last two are EBS's
		return KindCapacity
	case "ConflictException":
		return KindExists
	}
	if strings.HasSuffix(code, ".Duplicate") || strings.HasSuffix(code, ".InUse") {
		return KindExists
	}
	if strings.HasSuffix(code, ".NotFound") || strings.HasSuffix(code, ".Unknown") || code == "ParameterNotFound" {
		return KindNotFound
	}
	return KindFailed
}

// unsupported tells an endpoint that doesn't know an action: InvalidAction,
// 404, 501, or a 500 whose body is no EC2 error at all.
func unsupported(err error) bool {
	switch apiCode(err) {
	case "InvalidAction", "UnsupportedOperation", "Unsupported", "UnknownOperationException", "NotImplemented", "UnknownService":
		return true
	case codeNoPolicy:
		return false // though it is a 404
	}
	var re *awshttp.ResponseError
	if !errors.As(err, &re) || re.HTTPResponse() == nil {
		return false
	}
	switch re.HTTPStatusCode() {
	case http.StatusNotFound, http.StatusNotImplemented:
		return true
	case http.StatusInternalServerError:
		var de *smithy.DeserializationError
		return errors.As(err, &de) || apiCode(err) == "UnknownError"
	}
	return false
}

// apiCode is the EC2 error code in err, or "".
func apiCode(err error) string {
	var ae smithy.APIError
	if errors.As(err, &ae) {
		return ae.ErrorCode()
	}
	return ""
}

// throttled tells an answer that means "later", also after the SDK's retries.
func throttled(err error) bool {
	switch apiCode(err) {
	case "RequestLimitExceeded", "Throttling", "ThrottlingException", "SnapshotCreationPerVolumeRateExceeded":
		return true
	}
	return false
}

// transient tells an error that a wait may sit out: throttling and a
// connection that broke, never one that the endpoint means.
func transient(err error) bool {
	var ne net.Error
	return throttled(err) || (errors.As(err, &ne) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled))
}
