package cloud

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebsapi "github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"

	"github.com/steadcloud/stead/internal/awsproto"
)

// The headers of the EBS direct APIs.
const (
	headerLength      = "X-Amz-Data-Length"
	headerChecksum    = "X-Amz-Checksum"
	headerAlgorithm   = "X-Amz-Checksum-Algorithm"
	headerAggregation = "X-Amz-Checksum-Aggregation-Method"
)

var ebsPages = map[string]string{"pageToken": "NextToken", "maxResults": "MaxResults", "startingBlockIndex": "StartingBlockIndex", "firstSnapshotId": "FirstSnapshotId"}

// ebsRoutes are the EBS direct APIs.
var ebsRoutes = []awsproto.Route{
	{Method: http.MethodGet, Path: "/snapshots/{SnapshotId}/blocks", Action: "ListSnapshotBlocks", Query: map[string]string{
		"pageToken": ebsPages["pageToken"], "maxResults": ebsPages["maxResults"], "startingBlockIndex": ebsPages["startingBlockIndex"],
	}},
	{Method: http.MethodGet, Path: "/snapshots/{SecondSnapshotId}/changedblocks", Action: "ListChangedBlocks", Query: ebsPages},
	{Method: http.MethodGet, Path: "/snapshots/{SnapshotId}/blocks/{BlockIndex}", Action: "GetSnapshotBlock", Query: map[string]string{"blockToken": "BlockToken"}},
	{Method: http.MethodPost, Path: "/snapshots", Action: "StartSnapshot"},
	{Method: http.MethodPut, Path: "/snapshots/{SnapshotId}/blocks/{BlockIndex}", Action: "PutSnapshotBlock", Payload: "BlockData", Header: map[string]string{
		headerLength: "DataLength", "X-Amz-Progress": "Progress", headerChecksum: "Checksum", headerAlgorithm: "ChecksumAlgorithm",
	}},
	{Method: http.MethodPost, Path: "/snapshots/completion/{SnapshotId}", Action: "CompleteSnapshot", Header: map[string]string{
		"X-Amz-Changedblockscount": "ChangedBlocksCount", headerChecksum: "Checksum", headerAlgorithm: "ChecksumAlgorithm", headerAggregation: "ChecksumAggregationMethod",
	}},
}

// The error codes of the EBS direct APIs.
const (
	ebsInvalid    = "ValidationException"
	ebsNotFound   = "ResourceNotFoundException"
	ebsConflict   = "ConflictException"
	ebsThrottled  = "RequestThrottledException"
	ebsQuota      = "ServiceQuotaExceededException"
	ebsConcurrent = "ConcurrentLimitExceededException"
	ebsInternal   = "InternalServerException"
	ebsDenied     = "AccessDeniedException"
)

// ebsStatus are the HTTP statuses of the codes that aren't 400.
var ebsStatus = map[string]int{
	ebsNotFound: http.StatusNotFound, ebsConflict: http.StatusConflict, ebsQuota: http.StatusPaymentRequired,
	ebsInternal: http.StatusInternalServerError, ebsDenied: http.StatusForbidden,
}

// ebsFail makes an error with one of EBS's reasons.
func ebsFail[R ~string](code string, reason R, format string, args ...any) *apiError {
	return &apiError{Code: code, Reason: string(reason), Message: fmt.Sprintf(format, args...), Status: ebsStatus[code]}
}

// ebsWrong refuses a value of a request.
func ebsWrong(format string, args ...any) *apiError {
	return ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidParameterValue, format, args...)
}

type ebsProtocol struct{}

func (ebsProtocol) parse(r *http.Request, body []byte) (string, func(any) error, error) {
	route, fields, ok := awsproto.FindRoute(ebsRoutes, r)
	if !ok {
		return "", nil, &apiError{Code: "UnknownOperationException", Message: "There is no action at " + r.Method + " " + r.URL.Path, Status: http.StatusNotFound}
	}
	return route.Action, func(in any) error {
		if e := r.Header.Get("Content-Encoding"); route.Payload != "" && e != "" && e != "identity" {
			return ebsFail(ebsInvalid, ebstypes.ValidationExceptionReasonInvalidContentEncoding, "A block is sent as it is, not in the encoding '%s'.", e)
		}
		if err := route.Decode(in, r, body, fields); err != nil {
			return ebsWrong("%v", err)
		}
		return nil
	}, nil
}

func (ebsProtocol) encode(w io.Writer, _, _ string, out any) error {
	return awsproto.EncodeJSON(w, out) // times are seconds here, unlike DLM's
}

// respond puts into headers what belongs there.
func (p ebsProtocol) respond(_ string, out any) (answer, error) {
	switch out := out.(type) {
	case *ebsapi.GetSnapshotBlockOutput:
		a := answer{status: http.StatusOK, contentType: "application/octet-stream", header: map[string]string{
			headerLength: strconv.Itoa(int(*out.DataLength)), headerChecksum: *out.Checksum, headerAlgorithm: string(out.ChecksumAlgorithm),
		}}
		block, ok := out.BlockData.(blockData)
		if !ok {
			return a, fmt.Errorf("a block is read from a %T", out.BlockData)
		}
		a.body = block.all
		return a, nil
	case *ebsapi.PutSnapshotBlockOutput:
		return answer{status: http.StatusCreated, contentType: p.contentType(), body: []byte("{}"), header: map[string]string{
			headerChecksum: *out.Checksum, headerAlgorithm: string(out.ChecksumAlgorithm),
		}}, nil
	}
	a := answer{status: http.StatusOK, contentType: p.contentType()}
	switch out.(type) {
	case *ebsapi.StartSnapshotOutput:
		a.status = http.StatusCreated
	case *ebsapi.CompleteSnapshotOutput:
		a.status = http.StatusAccepted
	}
	var buf bytes.Buffer
	err := awsproto.EncodeJSON(&buf, out)
	a.body = buf.Bytes()
	return a, err
}

// ebsFault has the fields of all of EBS's errors.
type ebsFault struct {
	Type    string  `json:"__type"`
	Message string  `json:"Message"`
	Reason  *string `json:"Reason,omitempty"`
}

// translate gives EBS's codes to errors that all services share.
func (ebsProtocol) translate(e *apiError) *apiError {
	as := *e
	switch e.Code {
	case "InternalError":
		as.Code = ebsInternal
	case "InsufficientVolumeCapacity":
		as.Code, as.Reason = ebsQuota, string(ebstypes.ServiceQuotaExceededExceptionReasonDependencyServiceQuotaExceeded)
	case "IdempotentParameterMismatch":
		as.Code = ebsConflict
	case "AuthFailure":
		as.Code, as.Reason = ebsDenied, string(ebstypes.AccessDeniedExceptionReasonUnauthorizedAccount)
	default:
		return e
	}
	as.Status = ebsStatus[as.Code]
	return &as
}

func (ebsProtocol) fault(w io.Writer, _ string, e *apiError) error {
	f := ebsFault{Type: e.Code, Message: e.Message}
	if e.Reason != "" {
		f.Reason = aws.String(e.Reason)
	}
	return awsproto.WriteJSON(w, f)
}

func (ebsProtocol) contentType() string { return awsproto.RESTContentType }

// asEBS makes of an error about a parameter one of EBS's.
func asEBS(err error, reason ebstypes.ValidationExceptionReason) error {
	var api *apiError
	if errors.As(err, &api) {
		return ebsFail(ebsInvalid, reason, "%s", api.Message)
	}
	return err
}
