package server

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// Protect forbids to stop and to terminate a server, here and by other tools,
// until Unprotect. It is a fact of the server: the instance of a rescue has it
// too.
func (m *Manager) Protect(ctx context.Context, name string) (*Server, error) {
	w, err := m.protectable(ctx, "protect", name)
	if err != nil {
		return nil, err
	}
	root := w.root()
	if err := m.tag(ctx, aws.ToString(root.VolumeId), tagsOf(root.Tags).missing(tagMap{tagProtected: "yes"})); err != nil {
		return nil, wrap("protect", "server "+name, err)
	}
	if w.instance != nil {
		if isSpot(w.instance) {
			m.warn("protect", "server "+name, "EC2 can't protect a spot instance: stead refuses to end it, other tools don't")
		}
		if err := m.guard(ctx, aws.ToString(w.instance.InstanceId)); err != nil {
			return nil, wrap("protect", "server "+name, err)
		}
	}
	return m.Get(ctx, name)
}

// Unprotect allows to stop and to terminate a server again. The protection
// that every server has stays: other tools can't terminate it, and its disks
// are kept.
func (m *Manager) Unprotect(ctx context.Context, name string) (*Server, error) {
	w, err := m.protectable(ctx, "unprotect", name)
	if err != nil {
		return nil, err
	}
	if w.instance != nil && !isSpot(w.instance) {
		if err := m.guardStop(ctx, aws.ToString(w.instance.InstanceId), false); err != nil {
			return nil, wrap("unprotect", "server "+name, err)
		}
	}
	if root := w.root(); hasTag(root.Tags, tagProtected) {
		if err := m.untag(ctx, aws.ToString(root.VolumeId), tagProtected); err != nil {
			return nil, wrap("unprotect", "server "+name, err)
		}
	}
	return m.Get(ctx, name)
}

// protectable observes a server that can hold the fact.
func (m *Manager) protectable(ctx context.Context, op, name string) (*world, error) {
	w, err := m.world(ctx, op, name)
	if err != nil {
		return nil, err
	}
	bad := &Error{Op: op, Resource: "server " + name, Code: KindExists, Remedy: "stead rescue " + name}
	switch {
	case w.standIn != nil:
		bad.Reason = "a rescue isn't finished"
		return nil, bad
	case w.root() == nil:
		bad.Reason = "it has no root disk"
		return nil, bad
	}
	return w, nil
}
