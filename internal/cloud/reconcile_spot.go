package cloud

import (
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/steadcloud/stead/internal/state"
)

// setSpot moves a request into a state.
func (c *Cloud) setSpot(r *state.SpotRequest, to, code, message string) {
	r.State, r.Code, r.Message, r.Updated = to, code, message, c.now().UTC()
}

// requestSpot makes the request of a new instance, unless it is on demand or
// a request is what launches it.
func (c *Cloud) requestSpot(tx *state.Tx, l *launch, i *state.Instance) error {
	if l.spot == nil || i.SpotRequest != "" {
		return nil
	}
	r := *l.spot
	tags := r.Tags
	r.Meta = c.meta(i.Scope(), spotIDs.prefix)
	r.Tags = cloneTags(tags)
	c.setSpot(&r, state.SpotOpen, spotPending, "")
	r.Launch = state.SpotLaunch{Instance: l.proto, Devices: l.devices, Tags: l.tags, DiskTags: l.diskTags}
	i.SpotRequest = r.ID
	return state.Put(tx, &r)
}

// fulfil notes in an instance's request that it was launched.
func (c *Cloud) fulfil(tx *state.Tx, i *state.Instance) error {
	if i.SpotRequest == "" {
		return nil
	}
	r, err := state.Get[state.SpotRequest](tx, i.Scope(), i.SpotRequest)
	if err != nil {
		return err
	}
	r.InstanceID = i.ID
	c.setSpot(r, state.SpotActive, spotFulfilled, "Your spot request is fulfilled.")
	return state.Put(tx, r)
}

// spotEnded settles the request of an instance that is being terminated: a
// persistent one that wasn't cancelled wants another instance. One whose
// instance never ran has failed: another would not run either.
func (c *Cloud) spotEnded(tx *state.Tx, i *state.Instance) ([]job, error) {
	if i.SpotRequest == "" {
		return nil, nil
	}
	r, err := state.Get[state.SpotRequest](tx, i.Scope(), i.SpotRequest)
	if errors.Is(err, state.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	switch {
	case r.State == state.SpotCancelled:
		r.Code, r.Updated = spotTerminated, c.now().UTC()
	case r.State != state.SpotActive || r.InstanceID != i.ID:
		return nil, nil
	case i.Accel == "" && i.ReasonCode != reasonUserStop:
		c.setSpot(r, state.SpotFailed, spotBad, i.ReasonMessage)
	case !r.Persistent:
		c.setSpot(r, state.SpotClosed, spotTerminated, "")
	default:
		c.setSpot(r, state.SpotOpen, spotPending, "")
		return []job{jobOf(r)}, state.Put(tx, r)
	}
	return nil, state.Put(tx, r)
}

// reconcileSpot launches the instance that an open request waits for.
func (c *Cloud) reconcileSpot(j job) error {
	if c.stayDown || c.stopping.Load() {
		return nil // when the cloud is opened again
	}
	var jobs []job
	var refused error
	err := c.db.Update(func(tx *state.Tx) error {
		r, err := state.Get[state.SpotRequest](tx, j.scope, j.id)
		if errors.Is(err, state.ErrNotFound) || err == nil && r.State != state.SpotOpen {
			return nil
		}
		if err != nil {
			return err
		}
		if !r.ValidUntil.IsZero() && !c.now().Before(r.ValidUntil) {
			c.setSpot(r, state.SpotClosed, spotExpired, "")
			return state.Put(tx, r)
		}
		jobs, refused = c.launchAgain(tx, r)
		return refused // nothing of a launch that is refused stays
	})
	var api *apiError
	if errors.As(refused, &api) {
		return amend(c, j, func(_ *state.Tx, r *state.SpotRequest) error {
			c.setSpot(r, state.SpotFailed, spotBad, api.Error())
			return nil
		})
	}
	c.work.kick(jobs...)
	return err
}

// launchAgain launches another instance for a request.
func (c *Cloud) launchAgain(tx *state.Tx, r *state.SpotRequest) ([]job, error) {
	from := r.Launch
	subnet, err := find[state.Subnet](tx, r.Scope(), subnetIDs, from.Instance.SubnetID)
	if err != nil {
		return nil, err
	}
	for _, g := range from.Instance.Groups {
		if _, err := find[state.SecurityGroup](tx, r.Scope(), groupIDs, g); err != nil {
			return nil, err
		}
	}
	l := &launch{count: 1, proto: from.Instance, devices: from.Devices, subnet: subnet, tags: from.Tags, diskTags: from.DiskTags, spot: r}
	l.proto.Created, l.proto.SpotRequest, l.proto.ClientToken = c.now().UTC(), r.ID, ""
	ids, err := c.launch(tx, l)
	if err != nil {
		return nil, err
	}
	inst, err := state.Get[state.Instance](tx, r.Scope(), ids[0])
	if err != nil {
		return nil, err
	}
	jobs := []job{jobOf(inst)}
	for _, v := range inst.Volumes {
		jobs = append(jobs, job{(*state.Volume)(nil).Kind(), r.Scope(), v})
	}
	return jobs, nil
}

// dropSpot forgets the requests of an instance that is forgotten and that want
// no other.
func dropSpot(tx *state.Tx, i *state.Instance) error {
	if i.SpotRequest == "" {
		return nil
	}
	r, err := state.Get[state.SpotRequest](tx, i.Scope(), i.SpotRequest)
	if errors.Is(err, state.ErrNotFound) || err == nil && (r.InstanceID != i.ID || r.State == state.SpotOpen) {
		return nil
	}
	if err != nil {
		return err
	}
	return state.Delete(tx, r)
}

// mayStopSpot refuses to stop what nothing could start again.
func mayStopSpot(tx *state.Tx, i *state.Instance) error {
	if i.SpotRequest == "" {
		return nil
	}
	r, err := state.Get[state.SpotRequest](tx, i.Scope(), i.SpotRequest)
	if errors.Is(err, state.ErrNotFound) {
		return nil // forgotten with an instance that is gone
	}
	if err != nil {
		return fmt.Errorf("spot request of %s: %w", i.ID, err)
	}
	switch {
	case !r.Persistent:
		return fail("UnsupportedOperation", "You can't stop the Spot Instance '%s' because it is associated with a one-time Spot Instance request. You can only stop Spot Instances associated with persistent Spot Instance requests.", i.ID)
	case r.State == state.SpotCancelled:
		return fail("UnsupportedOperation", "You can't stop the Spot Instance '%s' because its Spot Instance request %s is cancelled.", i.ID, r.ID)
	}
	return nil
}

// mayModifySpot refuses attributes that a spot instance can't have changed.
func mayModifySpot(i *state.Instance, in *ec2.ModifyInstanceAttributeInput) error {
	if i.SpotRequest == "" {
		return nil
	}
	if p := in.DisableApiTermination; p != nil && p.Value != nil && *p.Value {
		return fail("UnsupportedOperation", "You can't enable termination protection for the Spot Instance '%s'.", i.ID)
	}
	if in.InstanceType != nil {
		return fail("UnsupportedOperation", "You can't change the type of the Spot Instance '%s'.", i.ID)
	}
	return nil
}

// endSpotWithoutRoot terminates a spot instance that is started while nothing
// is attached at its root, as EC2 does.
func (c *Cloud) endSpotWithoutRoot(i *state.Instance) {
	i.Want = state.Terminated
	c.enter(i, state.ShuttingDown)
	c.reason(i, reasonSpotEnd, fmt.Sprintf("The spot instance could not be started: it does not have a volume attached at root (%s)", i.RootDevice))
}
