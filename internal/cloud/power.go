package cloud

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// Reasons as EC2 words them.
const (
	reasonUserStop    = "Client.UserInitiatedShutdown"
	reasonGuestStop   = "Client.InstanceInitiatedShutdown"
	reasonUserMessage = "User initiated"
)

// change applies f to each of the instances, all or none, and kicks their
// workers. f writes what is wanted and gives whether it changed anything.
func (c *Cloud) change(ctx context.Context, ids []string, f func(tx *state.Tx, i *state.Instance) error) ([]types.InstanceStateChange, error) {
	if len(ids) == 0 {
		return nil, missing("InstanceId")
	}
	s := from(ctx).Scope
	var changes []types.InstanceStateChange
	var jobs []job
	err := c.db.Update(func(tx *state.Tx) error {
		for _, id := range ids {
			inst, err := find[state.Instance](tx, s, instanceIDs, id)
			if err != nil {
				return err
			}
			was := inst.State
			if err := f(tx, inst); err != nil {
				return err
			}
			if err := state.Put(tx, inst); err != nil {
				return err
			}
			changes = append(changes, types.InstanceStateChange{InstanceId: aws.String(id), PreviousState: apiState(was), CurrentState: apiState(inst.State)})
			jobs = append(jobs, jobOf(inst))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobs...)
	return changes, nil
}

// enter moves an instance into a state.
func (c *Cloud) enter(i *state.Instance, to string) {
	if i.State != to {
		i.State, i.StateChanged = to, c.now().UTC()
	}
}

func (c *Cloud) reason(i *state.Instance, code, message string) {
	i.ReasonCode, i.ReasonMessage = code, message
	if message != "" && code == reasonUserStop {
		i.ReasonMessage = "User initiated shutdown"
	}
}

// StartInstances starts stopped instances. Their root must be attached.
func (c *Cloud) StartInstances(ctx context.Context, in *ec2.StartInstancesInput) (*ec2.StartInstancesOutput, error) {
	if c.stopping.Load() {
		return nil, errStopping
	}
	changes, err := c.change(ctx, in.InstanceIds, func(tx *state.Tx, i *state.Instance) error {
		switch {
		case i.Want == state.Running && i.State != state.Stopping:
			return nil
		case i.State != state.Stopped:
			return fail("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be started: it is '%s'.", i.ID, i.State)
		}
		if err := mayStartSpot(tx, i); err != nil {
			return err
		}
		if err := checkRoot(tx, i); err != nil {
			if i.SpotRequest != "" {
				c.endSpotWithoutRoot(i)
				return nil
			}
			return err
		}
		if _, err := c.bootMode(i); err != nil {
			return err
		}
		i.Force, i.Launched = false, c.now().UTC()
		return c.setGoing(tx, i)
	})
	return &ec2.StartInstancesOutput{StartingInstances: changes}, err
}

// setGoing has an instance without a machine get one.
func (c *Cloud) setGoing(tx *state.Tx, i *state.Instance) error {
	i.Want, i.Resume = state.Running, false
	c.enter(i, state.Pending)
	c.reason(i, "", "")
	// One that cannot boot as it should says why when its machine is started.
	if mode, err := c.bootMode(i); err == nil {
		i.CurrentBootMode = string(mode)
	}
	return c.givePublicIP(tx, i)
}

// givePublicIP gives an instance that starts an automatic public address.
func (c *Cloud) givePublicIP(tx *state.Tx, i *state.Instance) error {
	if i.PublicIP != "" || i.NoPublicIP {
		return nil
	}
	ip, err := c.newPublicIP(tx)
	i.PublicIP = ip
	return err
}

func checkRoot(tx *state.Tx, i *state.Instance) error {
	disks, err := disksOf(tx, i)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(disks, func(d *state.Volume) bool { return sameDevice(d.Attachment.Device, i.RootDevice) }) {
		return fail("IncorrectInstanceState", "Instance '%s' does not have a volume attached at root (%s)", i.ID, i.RootDevice)
	}
	return nil
}

// StopInstances shuts the guests down and keeps everything.
func (c *Cloud) StopInstances(ctx context.Context, in *ec2.StopInstancesInput) (*ec2.StopInstancesOutput, error) {
	if aws.ToBool(in.Hibernate) {
		return nil, unsupported("Hibernation", "Stop without it.")
	}
	changes, err := c.change(ctx, in.InstanceIds, func(tx *state.Tx, i *state.Instance) error {
		if err := mayStopSpot(tx, i); err != nil {
			return err
		}
		switch {
		case i.State == state.Terminated || i.Want == state.Terminated:
			return fail("IncorrectInstanceState", "This instance '%s' is not in a state from which it can be stopped.", i.ID)
		case i.ProtectStop:
			return fail("OperationNotPermitted", "The instance '%s' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.", i.ID)
		case i.State == state.Stopped:
			return nil
		}
		i.Want, i.Force, i.Resume = state.Stopped, i.Force || aws.ToBool(in.Force), false
		c.enter(i, state.Stopping)
		c.reason(i, reasonUserStop, reasonUserMessage)
		return nil
	})
	if err == nil && aws.ToBool(in.Force) {
		c.hurry(in.InstanceIds)
	}
	return &ec2.StopInstancesOutput{StoppingInstances: changes}, err
}

// hurry ends machines at once whose worker may be waiting for their guests.
func (c *Cloud) hurry(ids []string) {
	for _, id := range ids {
		if h := c.running.get(id); h != nil {
			if err := h.vm.Kill(context.WithoutCancel(c.work.ctx)); err != nil {
				c.log.Warn("force stop", "instance", id, "err", err)
			}
		}
	}
}

// RebootInstances asks the guests to restart.
func (c *Cloud) RebootInstances(ctx context.Context, in *ec2.RebootInstancesInput) (*ec2.RebootInstancesOutput, error) {
	_, err := c.change(ctx, in.InstanceIds, func(_ *state.Tx, i *state.Instance) error {
		if i.State != state.Running && i.State != state.Pending {
			return fail("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be rebooted: it is '%s'.", i.ID, i.State)
		}
		i.RebootsAsked++
		return nil
	})
	return &ec2.RebootInstancesOutput{}, err
}

// TerminateInstances ends instances for good. Each volume stays or goes as its
// DeleteOnTermination says.
func (c *Cloud) TerminateInstances(ctx context.Context, in *ec2.TerminateInstancesInput) (*ec2.TerminateInstancesOutput, error) {
	changes, err := c.change(ctx, in.InstanceIds, func(_ *state.Tx, i *state.Instance) error {
		switch {
		case i.ProtectTermination && i.State != state.Terminated:
			return fail("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.ID)
		case i.State == state.Terminated:
			return nil
		}
		i.Want = state.Terminated
		c.enter(i, state.ShuttingDown)
		c.reason(i, reasonUserStop, reasonUserMessage)
		return nil
	})
	return &ec2.TerminateInstancesOutput{TerminatingInstances: changes}, err
}
