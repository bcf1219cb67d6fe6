package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Tags that the Data Lifecycle Manager puts on the snapshots that it takes:
// https://docs.aws.amazon.com/ebs/latest/userguide/dlm-elements.html
const (
	tagPolicy   = "aws:dlm:lifecycle-policy-id"
	tagSchedule = "aws:dlm:lifecycle-schedule-name"
)

// runSpan is how far apart the snapshots of one run of a schedule may have
// begun. One call takes them all; runs are an hour apart at least.
const runSpan = 10 * time.Minute

// Snapshots lists the server's sets, newest first; all servers' with name "".
func (m *Manager) Snapshots(ctx context.Context, name string) ([]SnapshotSet, error) {
	sets, err := m.sets(ctx, name)
	if err != nil || name == "" || len(sets) > 0 {
		return sets, err
	}
	_, err = m.world(ctx, "list the snapshots of", name)
	return sets, err
}

// sets lists the sets under a name, whether or not there is such a server.
func (m *Manager) sets(ctx context.Context, name string) ([]SnapshotSet, error) {
	found, err := m.tapes(ctx, name)
	if err != nil {
		return nil, err
	}
	return setsOf(found), nil
}

// tapes lists the snapshots of a server's disks; of all servers' with name "".
func (m *Manager) tapes(ctx context.Context, name string) ([]types.Snapshot, error) {
	if name == "" {
		return m.findSnapshots(ctx, filter("tag-key", tagServer))
	}
	if err := CheckName(name); err != nil {
		return nil, wrap("list", "snapshots", err)
	}
	return m.findSnapshots(ctx, filter("tag:"+tagServer, name))
}

// setsOf gathers snapshots into their sets, newest first. Snapshots that
// belong to no set are left out.
func setsOf(snapshots []types.Snapshot) []SnapshotSet {
	sets := []SnapshotSet{}
	for _, t := range gather(snapshots) {
		sets = append(sets, t.view())
	}
	slices.SortFunc(sets, func(a, b SnapshotSet) int {
		return cmp.Or(b.Started.Compare(a.Started), cmp.Compare(a.ID, b.ID))
	})
	return sets
}

// tapeSet is the snapshots of one set, as the endpoint lists them.
type tapeSet struct {
	server, id string
	scheduled  bool
	tapes      []types.Snapshot
}

// gather deals snapshots out to their sets: by the set's tag, or, where a
// schedule took them, by the schedule and its run.
func gather(snapshots []types.Snapshot) []tapeSet {
	type key struct{ server, set, policy, schedule string }
	members := map[key][]types.Snapshot{}
	for _, s := range snapshots {
		t := tagsOf(s.Tags)
		k := key{server: t[tagServer], policy: t[tagPolicy], schedule: t[tagSchedule]}
		if k.policy == "" {
			k.schedule, k.set = "", t[tagSet]
		}
		if k.server != "" && (k.set != "" || k.policy != "") {
			members[k] = append(members[k], s)
		}
	}
	var sets []tapeSet
	for k, list := range members {
		if k.policy == "" {
			sets = append(sets, tapeSet{server: k.server, id: k.set, tapes: list})
			continue
		}
		for _, run := range runsOf(list) {
			sets = append(sets, tapeSet{server: k.server, id: runID(k.policy, k.schedule, run), scheduled: true, tapes: run})
		}
	}
	return sets
}

// sameDisk tells two snapshots of one disk, or of it and of what a rescue put in
// its place.
func sameDisk(a, b *types.Snapshot) bool {
	device := tagOf(a.Tags, tagDevice)
	return aws.ToString(a.VolumeId) == aws.ToString(b.VolumeId) || device != "" && device == tagOf(b.Tags, tagDevice)
}

// runsOf parts the snapshots of one schedule into its runs: those that began
// within a span, and none with two of one disk.
func runsOf(list []types.Snapshot) [][]types.Snapshot {
	slices.SortFunc(list, func(a, b types.Snapshot) int {
		return cmp.Or(aws.ToTime(a.StartTime).Compare(aws.ToTime(b.StartTime)), cmp.Compare(aws.ToString(a.SnapshotId), aws.ToString(b.SnapshotId)))
	})
	var runs [][]types.Snapshot
	for _, s := range list {
		if n := len(runs) - 1; n >= 0 && aws.ToTime(s.StartTime).Sub(aws.ToTime(runs[n][0].StartTime)) < runSpan &&
			!slices.ContainsFunc(runs[n], func(o types.Snapshot) bool { return sameDisk(&o, &s) }) {
			runs[n] = append(runs[n], s)
			continue
		}
		runs = append(runs, []types.Snapshot{s})
	}
	return runs
}

// runID names a run as a set that is taken by hand is named: by its time, and
// by what tells two of one second apart.
func runID(policy, schedule string, run []types.Snapshot) string {
	at, parts := aws.ToTime(run[0].StartTime).UTC(), []string{policy, schedule}
	if within := at.Nanosecond(); within > 0 {
		parts = append(parts, strconv.Itoa(within))
	}
	return at.Format(setTime) + "-" + digest(parts...)[:4]
}

// setTime begins the ID of a set.
const setTime = "20060102T150405Z"

// view turns a set into what people are shown.
func (t *tapeSet) view() SnapshotSet {
	slices.SortFunc(t.tapes, func(a, b types.Snapshot) int { // root first, then by device
		return cmp.Or(cmp.Compare(tagOf(b.Tags, tagRole), tagOf(a.Tags, tagRole)), cmp.Compare(tagOf(a.Tags, tagDevice), tagOf(b.Tags, tagDevice)))
	})
	set := SnapshotSet{ID: t.id, Server: t.server, By: t.by(), State: string(types.SnapshotStateCompleted), OneInstant: true, Snapshots: []Snapshot{}}
	for _, s := range t.tapes {
		tags := tagsOf(s.Tags)
		set.Snapshots = append(set.Snapshots, Snapshot{
			SnapshotID: aws.ToString(s.SnapshotId), VolumeID: aws.ToString(s.VolumeId), Role: tags[tagRole], Device: tags[tagDevice],
			SizeGiB: int(aws.ToInt32(s.VolumeSize)), State: string(s.State), Progress: aws.ToString(s.Progress),
			Message: aws.ToString(s.StateMessage),
		})
		set.SizeGiB += int(aws.ToInt32(s.VolumeSize))
		set.Note = cmp.Or(set.Note, tags[tagNote])
		set.Frozen = set.Frozen || tags[tagSetFrozen] == yesNo(true)
		set.Part = cmp.Or(set.Part, tags[tagSetPart])
		set.OneInstant = set.OneInstant && tags[tagSetInstant] == yesNo(true)
		if began := aws.ToTime(s.StartTime).UTC(); set.Started.IsZero() || began.Before(set.Started) {
			set.Started = began
		}
		switch {
		case s.State == types.SnapshotStateError || s.State == types.SnapshotStateRecoverable:
			set.State = string(types.SnapshotStateError)
		case s.State == types.SnapshotStatePending && set.State == string(types.SnapshotStateCompleted):
			set.State = string(types.SnapshotStatePending)
		}
	}
	set.OneInstant = set.OneInstant || len(set.Snapshots) == 1
	set.Lacks = t.lacks(&set)
	set.Complete = set.Lacks == ""
	return set
}

func (t *tapeSet) by() string {
	switch {
	case t.scheduled:
		return BySchedule
	case strings.HasPrefix(t.id, rescueSetPrefix):
		return ByRescue
	}
	return ByHand
}

// lacks says what keeps a set from being restored, "" if nothing does.
func (t *tapeSet) lacks(set *SnapshotSet) string {
	if set.State == string(types.SnapshotStateError) {
		return "a snapshot failed"
	}
	var root tagMap
	roots := 0
	for _, s := range t.tapes {
		if tagOf(s.Tags, tagRole) == RoleRoot {
			root = tagsOf(s.Tags)
			roots++
		}
	}
	switch {
	case set.Part == RoleData && roots > 0, roots > 1:
		return "it has more than one root"
	case set.Part != RoleData && roots == 0:
		return "its root is missing"
	case t.scheduled:
		return t.lacksDisks(root)
	}
	if size, err := strconv.Atoi(tagOf(t.tapes[0].Tags, tagSetSize)); err != nil || size != len(t.tapes) {
		return fmt.Sprintf("it has %d of %s snapshots", len(t.tapes), cmp.Or(tagOf(t.tapes[0].Tags, tagSetSize), "?"))
	}
	return ""
}

// lacksDisks holds a scheduled run against the disks that its root says the
// server had.
func (t *tapeSet) lacksDisks(root tagMap) string {
	want := strings.Fields(root[tagDisks])
	if len(want) == 0 {
		return "its root doesn't say which disks there were"
	}
	for _, device := range want {
		if !slices.ContainsFunc(t.tapes, func(s types.Snapshot) bool { return sameSlot(tagOf(s.Tags, tagDevice), device) }) {
			return "the disk at " + device + " is missing"
		}
	}
	return ""
}

// findSet returns one set of a server.
func (m *Manager) findSet(ctx context.Context, name, id string) (*SnapshotSet, error) {
	found, err := m.setSnapshots(ctx, name, id)
	if err != nil {
		return nil, err
	}
	for _, set := range setsOf(found) {
		if set.ID == id {
			return &set, nil
		}
	}
	return nil, noSet(name, id)
}

func noSet(name, id string) *Error {
	return &Error{Code: KindNotFound, Reason: "there is no snapshot set " + id, Remedy: "stead snapshots " + name}
}

// setSnapshots lists the snapshots of one set. A set's tag finds it at once;
// the run of a schedule has none.
func (m *Manager) setSnapshots(ctx context.Context, name, id string) ([]types.Snapshot, error) {
	if id == "" {
		return nil, nil
	}
	found, err := m.findSnapshots(ctx, filter("tag:"+tagServer, name), filter("tag:"+tagSet, id))
	if err != nil || len(found) > 0 {
		return found, err
	}
	all, err := m.tapes(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, t := range gather(all) {
		if t.id == id {
			return t.tapes, nil
		}
	}
	return nil, nil
}

// setAt returns the set that a server is to come back from: the one called id,
// or else the newest complete one of all its disks that was taken at or before
// at (zero: now). It may still be pending: see waitSet. A set called by its ID
// is complete too, but may hold the root or the data alone: see Part.
func (m *Manager) setAt(ctx context.Context, name string, at time.Time, id string) (*SnapshotSet, error) {
	sets, err := m.sets(ctx, name)
	if err != nil {
		return nil, err
	}
	if id != "" {
		return pickSet(sets, name, id)
	}
	var next *SnapshotSet // the first that is too new
	for k := range sets {
		s := &sets[k]
		switch {
		case !s.Complete || s.Part != "":
		case at.IsZero() || !s.Started.After(at):
			return s, nil
		default:
			next = s
		}
	}
	e := &Error{Code: KindNotFound, Reason: "there is no complete snapshot set of it", Remedy: "stead snapshots " + name}
	if next != nil {
		e.Reason = fmt.Sprintf("there is no complete snapshot set of it from %s or before; the first is %s", at.UTC().Format(time.RFC3339), next.ID)
	} else if len(sets) > 0 {
		e.Reason += fmt.Sprintf("; the newest, %s, isn't: %s", sets[0].ID, cmp.Or(sets[0].Lacks, "it holds the "+sets[0].Part+" alone"))
	}
	return nil, e
}

// latestSet names the newest complete set of a server's disks.
const latestSet = "latest"

// another tells whether a set is asked for that isn't the one that a command
// under way is from. The newest may be newer by now, by the command's own
// doing: asked for again it is still the one that it was.
func another(asked, under string) bool {
	return asked != "" && asked != under && asked != latestSet
}

// pickSet returns the set called id, or the newest complete one for latestSet.
func pickSet(sets []SnapshotSet, name, id string) (*SnapshotSet, error) {
	for k := range sets {
		s := &sets[k]
		if id == latestSet && s.Complete && s.Part == "" {
			return s, nil
		}
		if s.ID != id {
			continue
		}
		if !s.Complete {
			return nil, &Error{Code: KindExists, Resource: "set " + id, Reason: "it isn't complete: " + s.Lacks, Remedy: "stead snapshots " + name}
		}
		return s, nil
	}
	e := noSet(name, id)
	if len(sets) > 0 {
		e.Reason += "; the newest is " + sets[0].ID
	}
	return nil, e
}

// waitSet waits until a set is complete and completed. Only the context bounds
// it: a first snapshot can take hours. But one that lacks a snapshot when all
// others are completed won't get it by waiting: somebody has deleted it.
func (m *Manager) waitSet(ctx context.Context, name, id string) (*SnapshotSet, error) {
	var set *SnapshotSet
	told, lacking := time.Time{}, time.Time{}
	err := m.step("wait for snapshots", name, func() error {
		return m.poll(ctx, 0, "snapshots to complete", "server "+name, func(ctx context.Context) (bool, error) {
			var err error
			if set, err = m.findSet(ctx, name, id); err != nil {
				return false, err
			}
			if set.State == string(types.SnapshotStateError) {
				return false, set.failure()
			}
			if m.now().Sub(told) > 5*time.Second {
				told = m.now()
				m.notify(Event{State: StepWaiting, Step: "wait for snapshots", Resource: name, Detail: set.progress()})
			}
			done := set.State == string(types.SnapshotStateCompleted)
			switch {
			case !done || set.Complete:
				lacking = time.Time{}
			case lacking.IsZero():
				lacking = m.now()
			case m.now().Sub(lacking) > min(settleTime, m.stateTimeout):
				return false, &Error{Code: KindPartial, Resource: "set " + id, Reason: "it isn't complete: " + set.Lacks, Remedy: "the same command again takes what is missing; stead snapshots " + name + " shows it"}
			}
			return set.Complete && done, nil
		})
	})
	return set, err
}

// failure is the error of a set that has a failed snapshot.
func (s *SnapshotSet) failure() error {
	e := &Error{Code: KindFailed, Reason: "a snapshot of set " + s.ID + " failed", Remedy: "stead snapshot " + s.Server}
	for _, one := range s.Snapshots {
		if one.State != string(types.SnapshotStateError) {
			continue
		}
		e.Reason = joinReason(one.SnapshotID+" of "+one.VolumeID+" failed", one.Message)
		if isFull(one.Message) {
			e.Code, e.Remedy = KindCapacity, "make room on the disk that is full, then stead snapshot "+s.Server
		}
	}
	return e
}

// isFull tells a message that speaks of a full disk.
func isFull(message string) bool {
	message = strings.ToLower(message)
	return strings.Contains(message, "no space left") || strings.Contains(message, "full")
}

func joinReason(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

func (s *SnapshotSet) progress() string {
	text := ""
	for k, one := range s.Snapshots {
		if k > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s %s", one.SnapshotID, cmp.Or(one.Progress, one.State))
	}
	return text
}
