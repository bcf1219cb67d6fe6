package server

import (
	"cmp"
	"context"
	_ "embed"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// stepClone marks the instance of a clone that isn't finished: "clone SOURCE".
const stepClone = "clone"

// cloneScript is the user data that makes a copy a server of its own.
//
//go:embed clone.sh
var cloneScript string

// CloneOptions says what a new server is made of.
type CloneOptions struct {
	Name string // of the new server
	// Set is the snapshot set, and At the moment whose newest complete set it
	// is. Neither: one that is taken now.
	Set  string
	At   time.Time
	Type string // "" means the source's
	Zone string // "" means the source's
	Wait WaitFor
}

// CloneResult is the new server and what it was made of.
type CloneResult struct {
	Server *Server `json:"server"`
	Source string  `json:"source"`
	Set    string  `json:"set"`
}

// cloneStale is how old a set of an interrupted clone may be to go on with:
// nothing of the new server is there yet, and it is to show the present.
const cloneStale = 10 * time.Minute

// Clone makes a new server of a snapshot set: the same disks and machine, with
// an address, host keys, a machine ID and a name of its own. Repeated after an
// interruption it goes on.
func (m *Manager) Clone(ctx context.Context, source string, o CloneOptions) (*CloneResult, error) {
	r, err := m.clone(ctx, source, o)
	return r, wrap("clone", "server "+source, err)
}

func (m *Manager) clone(ctx context.Context, source string, o CloneOptions) (*CloneResult, error) {
	for _, name := range []string{source, o.Name} {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	if o.Set != "" && !o.At.IsZero() {
		return nil, &Error{Code: KindUsage, Reason: "both a set and a time are named", Remedy: "name one of them"}
	}
	w, err := m.observe(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	if err := w.cloneConflict(source); err != nil {
		return nil, err
	}
	set, err := m.cloneSet(ctx, w, source, o)
	if err != nil {
		return nil, err
	}
	if set, err = m.waitSet(ctx, source, set.ID); err != nil {
		return nil, err
	}
	f, err := m.setFacts(ctx, set)
	if err != nil {
		return nil, err
	}
	addressed := f.ElasticIP != ""
	s, err := m.cloneOf(ctx, w, set, machineFacts(f.ofAnother(), RescueOptions{Type: o.Type, Zone: o.Zone}), addressed, o.Wait)
	if err != nil {
		return nil, err
	}
	return &CloneResult{Server: s, Source: source, Set: set.ID}, nil
}

// ofAnother leaves of a server's facts what goes for a copy too.
func (f facts) ofAnother() facts {
	f.ElasticIP, f.PrivateIP, f.Subnet, f.Instance, f.Protected, f.Disks = "", "", "", "", "", ""
	return f
}

// cloneConflict tells whether the name is free, or an interrupted clone of the
// same source has it.
func (w *world) cloneConflict(source string) error {
	if w.empty() || w.instance != nil && w.standIn == nil && tagOf(w.instance.Tags, tagStep) == stepClone+" "+source {
		return nil
	}
	return &Error{Code: KindExists, Resource: "server " + w.name, Op: "clone to", Reason: "it exists", Remedy: "stead show " + w.name + ", or choose another name"}
}

// cloneSet returns the set to clone: that of the clone under way, the one that
// is asked for, or one taken now. Its note says that it isn't used yet, so that
// a clone that was cut off right after doesn't take another.
func (m *Manager) cloneSet(ctx context.Context, w *world, source string, o CloneOptions) (*SnapshotSet, error) {
	if w.instance != nil {
		under := tagOf(w.instance.Tags, tagSet)
		if another(o.Set, under) {
			return nil, &Error{Code: KindExists, Reason: "a clone of set " + under + " isn't finished", Remedy: "stead clone " + source + " " + w.name}
		}
		return m.setAt(ctx, source, time.Time{}, under)
	}
	if o.Set != "" || !o.At.IsZero() {
		set, err := m.setAt(ctx, source, o.At, o.Set)
		if err == nil && set.Part != "" {
			err = &Error{Code: KindUsage, Reason: "set " + set.ID + " holds the " + set.Part + " alone", Remedy: "stead snapshots " + source}
		}
		return set, err
	}
	sets, err := m.sets(ctx, source)
	if err != nil {
		return nil, err
	}
	for k := range sets {
		if s := &sets[k]; s.Note == unfinishedClone(w.name) && s.Complete && m.now().Sub(s.Started) < cloneStale {
			return s, nil
		}
	}
	return m.snapshot(ctx, source, SnapshotOptions{Note: unfinishedClone(w.name)})
}

func unfinishedClone(name string) string { return "unfinished clone " + name }

// cloneOf launches a set as a server of another name, and finishes it.
func (m *Manager) cloneOf(ctx context.Context, w *world, set *SnapshotSet, f facts, addressed bool, wait WaitFor) (*Server, error) {
	plan := imagePlan{
		name: "stead-clone-" + w.name + "-" + set.ID, about: "clone of server " + set.Server,
		tags: serverTags(w.name).with(tagMap{tagSet: set.ID}),
	}
	if w.instance == nil {
		image, err := m.setImage(ctx, set, f, plan)
		if err != nil {
			return nil, err
		}
		f.Image = cmp.Or(f.Image, aws.ToString(image.ImageId))
		script := strings.ReplaceAll(cloneScript, "@NAME@", w.name)
		if w.instance, err = m.launchSet(ctx, w, set, image, f, stepClone+" "+set.Server, []byte(script)); err != nil {
			return nil, err
		}
	}
	id := aws.ToString(w.instance.InstanceId)
	if err := m.takeOver(ctx, w, id, set, f); err != nil {
		return nil, err
	}
	if err := m.guard(ctx, id); err != nil {
		return nil, err
	}
	if err := m.address(ctx, w.name, id, addressed); err != nil {
		return nil, err
	}
	if err := m.endClone(ctx, w.name, set, plan); err != nil {
		return nil, err
	}
	return m.ready(ctx, stepClone, w.name, id, wait)
}

// endClone removes the image that a clone needed on the way, and says in the
// set's note that it was used.
func (m *Manager) endClone(ctx context.Context, name string, set *SnapshotSet, plan imagePlan) error {
	image, err := m.ownImage(ctx, plan.name)
	if err != nil {
		return err
	}
	if image != nil {
		_, err := m.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: image.ImageId})
		if err != nil && KindOf(err) != KindNotFound {
			return wrap("deregister", "image "+aws.ToString(image.ImageId), err)
		}
	}
	if set.Note != unfinishedClone(name) {
		return nil
	}
	in := &ec2.CreateTagsInput{Tags: []types.Tag{{Key: aws.String(tagNote), Value: aws.String("clone " + name)}}}
	for _, s := range set.Snapshots {
		in.Resources = append(in.Resources, s.SnapshotID)
	}
	_, err = m.ec2.CreateTags(ctx, in)
	return wrap("note", "set "+set.ID, err)
}
