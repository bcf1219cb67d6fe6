// Package blockstest is an endpoint of the EBS direct APIs in memory, for
// tests: real clients speak to it over HTTP. It holds callers to the contract:
// checksums, sizes, counts, and that a snapshot is readable once it is
// completed, and only then.
package blockstest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// BlockSize is that of EBS.
const BlockSize = 512 << 10

// Endpoint is one region's snapshots.
type Endpoint struct {
	// New, when set, makes the snapshot that StartSnapshot answers with, and
	// returns its ID: for tests whose EC2 is another's. Otherwise Endpoint
	// itself is the EC2 that knows of it.
	New func(sizeGiB int64, tags map[string]string, description string) (string, error)
	// Find, when set, returns a completed snapshot that Endpoint doesn't know.
	Find func(id string) *Snapshot
	// Fault, when set, is asked before each call; an answer other than zero is
	// the status that it fails with.
	Fault func(r *http.Request) (status int, code string)
	// Page is how many blocks a list has at most. Default 100.
	Page int
	// Slow is how long a snapshot is completing.
	Slow time.Duration
	// Full, when set, says why a snapshot that is completed stays pending.
	Full string

	mu     sync.Mutex
	snaps  map[string]*Snapshot
	tokens map[string]string // client token → snapshot
	calls  map[string]int
	busy   int
	most   int
}

// Snapshot is one of an Endpoint.
type Snapshot struct {
	ID, Parent, Description, State string
	SizeGiB                        int64
	Tags                           map[string]string
	Blocks                         map[int32][]byte
	put                            map[int32][sha256.Size]byte
	done                           time.Time
	message                        string
}

// Add puts a completed snapshot in.
func (e *Endpoint) Add(id string, sizeGiB int64, blocks map[int32][]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.init()
	e.snaps[id] = &Snapshot{ID: id, SizeGiB: sizeGiB, State: "completed", Blocks: blocks}
}

// Get returns a snapshot, or nil.
func (e *Endpoint) Get(id string) *Snapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.snaps[id]
}

// Count tells how many calls of an action there were, by its name.
func (e *Endpoint) Count(action string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls[action]
}

// Most tells how many calls were under way at once, at most.
func (e *Endpoint) Most() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.most
}

// Pending counts the snapshots that aren't completed.
func (e *Endpoint) Pending() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, s := range e.snaps {
		if s.State == "pending" {
			n++
		}
	}
	return n
}

// ExpireAll gives the pending snapshots up, as an endpoint does after a while.
func (e *Endpoint) ExpireAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.snaps {
		if s.State == "pending" {
			s.State = "error"
		}
	}
}

func (e *Endpoint) init() {
	if e.snaps == nil {
		e.snaps, e.tokens, e.calls = map[string]*Snapshot{}, map[string]string{}, map[string]int{}
	}
	if e.Page == 0 {
		e.Page = 100
	}
}

// failure is an error as the service tells it.
type failure struct {
	status       int
	code, reason string
	message      string
}

func invalid(reason, message string) *failure {
	return &failure{http.StatusBadRequest, "ValidationException", reason, message}
}

func notFound(id string) *failure {
	return &failure{http.StatusNotFound, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND", "The snapshot '" + id + "' does not exist."}
}

// ServeHTTP implements http.Handler.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.init()
	e.busy++
	e.most = max(e.most, e.busy)
	e.mu.Unlock()
	defer func() { e.mu.Lock(); e.busy--; e.mu.Unlock() }()
	body, _ := io.ReadAll(r.Body) // what is missing fails below
	var f *failure
	if e.Fault != nil {
		if status, code := e.Fault(r); status != 0 {
			f = &failure{status: status, code: code, message: "as the test wants it"}
		}
	}
	if f == nil {
		f = e.route(w, r, strings.Split(strings.Trim(r.URL.Path, "/"), "/"), body)
	}
	if f != nil {
		w.Header().Set("X-Amzn-ErrorType", f.code)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(f.status)
		_ = json.NewEncoder(w).Encode(map[string]string{"Message": f.message, "Reason": f.reason})
	}
}

func (e *Endpoint) route(w http.ResponseWriter, r *http.Request, path []string, body []byte) *failure {
	if len(path) == 0 || path[0] != "snapshots" {
		return &failure{http.StatusNotFound, "UnknownOperationException", "", r.URL.Path}
	}
	switch {
	case r.Method == http.MethodPost && len(path) == 1:
		return e.start(w, body)
	case r.Method == http.MethodPost && len(path) == 3 && path[1] == "completion":
		return e.complete(w, r, path[2])
	case r.Method == http.MethodPut && len(path) == 4:
		return e.put(w, r, path[1], path[3], body)
	case len(path) == 4:
		return e.block(w, r, path[1], path[3])
	case len(path) == 3 && path[2] == "blocks":
		return e.list(w, r, path[1])
	case len(path) == 3 && path[2] == "changedblocks":
		return e.changed(w, r, path[1])
	}
	return &failure{http.StatusNotFound, "UnknownOperationException", "", r.URL.Path}
}

// called counts a call and holds the lock till the returned function is called.
func (e *Endpoint) called(action string) func() {
	e.mu.Lock()
	e.calls[action]++
	return e.mu.Unlock
}

func (e *Endpoint) readable(id string) (*Snapshot, *failure) {
	s := e.snaps[id]
	if s == nil && e.Find != nil {
		return e.Find(id), nil
	}
	if s == nil || s.State != "completed" {
		return nil, notFound(id)
	}
	return s, nil
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func token(id string, index int32) string { return fmt.Sprintf("%s/%d", id, index) }

func sorted[V any](m map[int32]V) []int32 {
	list := make([]int32, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// page cuts a list, and makes each second page an empty one that goes on.
func (e *Endpoint) page(r *http.Request, list []int32) (some []int32, next string) {
	from, empty := 0, false
	if t := r.URL.Query().Get("pageToken"); t != "" {
		_, _ = fmt.Sscanf(t, "%d %t", &from, &empty)
	}
	if empty {
		return nil, fmt.Sprintf("%d false", from)
	}
	to := min(from+e.Page, len(list))
	if to < len(list) {
		next = fmt.Sprintf("%d true", to)
	}
	return list[from:to], next
}

func (e *Endpoint) list(w http.ResponseWriter, r *http.Request, id string) *failure {
	defer e.called("ListSnapshotBlocks")()
	s, f := e.readable(id)
	if f != nil {
		return f
	}
	some, next := e.page(r, sorted(s.Blocks))
	blocks := []map[string]any{}
	for _, index := range some {
		blocks = append(blocks, map[string]any{"BlockIndex": index, "BlockToken": token(id, index)})
	}
	answer(w, http.StatusOK, listing("Blocks", blocks, s, next))
	return nil
}

func listing(key string, blocks []map[string]any, s *Snapshot, next string) map[string]any {
	m := map[string]any{key: blocks, "BlockSize": BlockSize, "VolumeSize": s.SizeGiB, "ExpiryTime": float64(time.Now().Add(time.Hour).Unix())}
	if next != "" {
		m["NextToken"] = next
	}
	return m
}

func (e *Endpoint) changed(w http.ResponseWriter, r *http.Request, id string) *failure {
	defer e.called("ListChangedBlocks")()
	second, f := e.readable(id)
	if f != nil {
		return f
	}
	first, f := e.readable(r.URL.Query().Get("firstSnapshotId"))
	if f != nil {
		return f
	}
	if strings.Contains(first.ID, "unrelated") {
		return invalid("UNRELATED_SNAPSHOTS", "The snapshots are unrelated.")
	}
	differ := map[int32]bool{}
	for _, m := range []map[int32][]byte{first.Blocks, second.Blocks} {
		for index := range m {
			if string(first.Blocks[index]) != string(second.Blocks[index]) {
				differ[index] = true
			}
		}
	}
	some, next := e.page(r, sorted(differ))
	blocks := []map[string]any{}
	for _, index := range some {
		b := map[string]any{"BlockIndex": index}
		if first.Blocks[index] != nil {
			b["FirstBlockToken"] = token(first.ID, index)
		}
		if second.Blocks[index] != nil {
			b["SecondBlockToken"] = token(id, index)
		}
		blocks = append(blocks, b)
	}
	answer(w, http.StatusOK, listing("ChangedBlocks", blocks, second, next))
	return nil
}

// indexOf reads a block's index, -1 for what is none.
func indexOf(s string) int32 {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return -1
	}
	return int32(n)
}

func (e *Endpoint) block(w http.ResponseWriter, r *http.Request, id, at string) *failure {
	unlock := e.called("GetSnapshotBlock")
	s, f := e.readable(id)
	index := indexOf(at)
	var data []byte
	if f == nil {
		data = s.Blocks[index]
	}
	unlock()
	if f != nil {
		return f
	}
	if r.URL.Query().Get("blockToken") != token(id, index) || data == nil {
		return invalid("INVALID_BLOCK_TOKEN", "The block token is invalid.")
	}
	sum := sha256.Sum256(data)
	w.Header().Set("X-Amz-Data-Length", strconv.Itoa(BlockSize))
	w.Header().Set("X-Amz-Checksum", base64.StdEncoding.EncodeToString(sum[:]))
	w.Header().Set("X-Amz-Checksum-Algorithm", "SHA256")
	_, _ = w.Write(data)
	return nil
}

func (e *Endpoint) start(w http.ResponseWriter, body []byte) *failure {
	defer e.called("StartSnapshot")()
	var in struct {
		VolumeSize                                 int64
		ParentSnapshotID, ClientToken, Description string
		Tags                                       []struct{ Key, Value string }
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return invalid("", err.Error())
	}
	id := e.tokens[in.ClientToken]
	if id == "" {
		s := &Snapshot{State: "pending", SizeGiB: in.VolumeSize, Description: in.Description, Parent: in.ParentSnapshotID, Tags: map[string]string{}, Blocks: map[int32][]byte{}, put: map[int32][sha256.Size]byte{}}
		for _, t := range in.Tags {
			s.Tags[t.Key] = t.Value
		}
		if in.ParentSnapshotID != "" {
			parent, f := e.readable(in.ParentSnapshotID)
			if f != nil {
				return f
			}
			for index, data := range parent.Blocks {
				s.Blocks[index] = data
			}
		}
		id = fmt.Sprintf("snap-%017x", len(e.snaps)+1)
		if e.New != nil {
			var err error
			if id, err = e.New(in.VolumeSize, s.Tags, in.Description); err != nil {
				return &failure{http.StatusInternalServerError, "InternalServerException", "", err.Error()}
			}
		}
		s.ID = id
		e.snaps[id], e.tokens[in.ClientToken] = s, id
	}
	answer(w, http.StatusCreated, map[string]any{"SnapshotId": id, "Status": "pending", "VolumeSize": in.VolumeSize, "BlockSize": BlockSize})
	return nil
}

func (e *Endpoint) put(w http.ResponseWriter, r *http.Request, id, at string, body []byte) *failure {
	sum := sha256.Sum256(body)
	checksum := base64.StdEncoding.EncodeToString(sum[:])
	defer e.called("PutSnapshotBlock")()
	s := e.snaps[id]
	index := indexOf(at)
	switch {
	case s == nil || s.State != "pending":
		return notFound(id)
	case len(body) != BlockSize || r.Header.Get("X-Amz-Data-Length") != strconv.Itoa(BlockSize):
		return invalid("INVALID_BLOCK", "The block has another size.")
	case r.Header.Get("X-Amz-Checksum") != checksum || r.Header.Get("X-Amz-Checksum-Algorithm") != "SHA256":
		return invalid("INVALID_BLOCK", "The checksum is another.")
	case index < 0 || int64(index) >= s.SizeGiB<<30/BlockSize:
		return invalid("INVALID_BLOCK", "There is no such block.")
	}
	s.put[index] = sum
	if strings.Trim(string(body), "\x00") == "" {
		delete(s.Blocks, index)
	} else {
		s.Blocks[index] = body
	}
	w.Header().Set("X-Amz-Checksum", checksum)
	w.Header().Set("X-Amz-Checksum-Algorithm", "SHA256")
	answer(w, http.StatusCreated, map[string]any{})
	return nil
}

func (e *Endpoint) complete(w http.ResponseWriter, r *http.Request, id string) *failure {
	defer e.called("CompleteSnapshot")()
	s := e.snaps[id]
	if s == nil || s.State != "pending" {
		return notFound(id)
	}
	h := sha256.New()
	for _, index := range sorted(s.put) {
		sum := s.put[index]
		h.Write(sum[:])
	}
	switch {
	case r.Header.Get("X-Amz-Changedblockscount") != strconv.Itoa(len(s.put)):
		return invalid("INVALID_PARAMETER_VALUE", "The count of changed blocks is another.")
	case r.Header.Get("X-Amz-Checksum") != base64.StdEncoding.EncodeToString(h.Sum(nil)) || r.Header.Get("X-Amz-Checksum-Aggregation-Method") != "LINEAR":
		return invalid("INVALID_PARAMETER_VALUE", "The checksum is another.")
	}
	if s.message = e.Full; s.message == "" {
		s.State, s.done = "completed", time.Now().Add(e.Slow)
	}
	answer(w, http.StatusAccepted, map[string]any{"Status": "pending"})
	return nil
}

// DescribeSnapshots is EC2's, of one snapshot by its ID.
func (e *Endpoint) DescribeSnapshots(_ context.Context, in *ec2.DescribeSnapshotsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSnapshotsOutput, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.snaps[in.SnapshotIds[0]]
	if s == nil {
		return nil, &smithy.GenericAPIError{Code: "InvalidSnapshot.NotFound", Message: "The snapshot does not exist."}
	}
	state := s.State
	if time.Now().Before(s.done) {
		state = "pending"
	}
	out := types.Snapshot{SnapshotId: aws.String(s.ID), State: types.SnapshotState(state)}
	if s.message != "" {
		out.StateMessage = &s.message
	}
	return &ec2.DescribeSnapshotsOutput{Snapshots: []types.Snapshot{out}}, nil
}

// DeleteSnapshot is EC2's.
func (e *Endpoint) DeleteSnapshot(_ context.Context, in *ec2.DeleteSnapshotInput, _ ...func(*ec2.Options)) (*ec2.DeleteSnapshotOutput, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.snaps, aws.ToString(in.SnapshotId))
	return &ec2.DeleteSnapshotOutput{}, nil
}
