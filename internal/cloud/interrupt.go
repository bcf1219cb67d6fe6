package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// Why EC2 takes spot instances back, and the status codes of their requests.
const (
	reasonSpotStop       = "Server.SpotInstanceShutdown"
	reasonSpotEnd        = "Server.SpotInstanceTermination"
	spotStoppedNoRoom    = "instance-stopped-no-capacity"
	spotTerminatedNoRoom = "instance-terminated-no-capacity"
	spotNoRoomMessage    = "There is no Spot capacity available that matches your request."
)

// InterruptSpot takes the capacity of a spot instance back, as EC2 may do at
// any time: the instance is stopped or terminated, as its request says. Back
// again, a stopped one is started; nobody else can start it meanwhile. Nothing
// in this cloud does so by itself, for it has no market.
func (c *Cloud) InterruptSpot(s state.Scope, id string, back bool) error {
	var jobs []job
	err := c.db.Update(func(tx *state.Tx) error {
		i, err := find[state.Instance](tx, s, instanceIDs, id)
		if err != nil {
			return err
		}
		r, err := state.Get[state.SpotRequest](tx, s, i.SpotRequest)
		if i.SpotRequest == "" || errors.Is(err, state.ErrNotFound) {
			return fail("UnsupportedOperation", "The instance '%s' is not a Spot Instance.", id)
		}
		if err != nil {
			return err
		}
		if back {
			err = c.giveBack(tx, r, i)
		} else {
			err = c.takeBack(r, i)
		}
		if err != nil {
			return err
		}
		jobs = append(jobs, jobOf(i))
		return errors.Join(state.Put(tx, r), state.Put(tx, i))
	})
	if err == nil {
		c.work.kick(jobs...)
	}
	return err
}

// takeBack stops an instance, or ends it.
func (c *Cloud) takeBack(r *state.SpotRequest, i *state.Instance) error {
	switch {
	case r.Interrupted && i.Want == state.Stopped:
		return nil // it was before
	case i.Want != state.Running || i.State != state.Running && i.State != state.Pending:
		return fail("IncorrectInstanceState", "The instance '%s' does not run: it is '%s'.", i.ID, i.State)
	case r.Behavior == string(types.InstanceInterruptionBehaviorStop):
		i.Want, i.Resume = state.Stopped, false
		c.enter(i, state.Stopping)
		c.reason(i, reasonSpotStop, spotNoRoomMessage)
		r.Interrupted = true
		c.setSpot(r, r.State, spotStoppedNoRoom, spotNoRoomMessage)
		return nil
	}
	i.Want = state.Terminated
	c.enter(i, state.ShuttingDown)
	c.reason(i, reasonSpotEnd, spotNoRoomMessage)
	c.setSpot(r, state.SpotClosed, spotTerminatedNoRoom, spotNoRoomMessage)
	return nil
}

// giveBack starts an instance again.
func (c *Cloud) giveBack(tx *state.Tx, r *state.SpotRequest, i *state.Instance) error {
	if !r.Interrupted || i.State != state.Stopped {
		return fail("IncorrectInstanceState", "The instance '%s' is not stopped for want of capacity: it is '%s'.", i.ID, i.State)
	}
	if c.stopping.Load() {
		return errStopping
	}
	r.Interrupted = false
	if checkRoot(tx, i) != nil {
		c.endSpotWithoutRoot(i)
		return nil //nolint:nilerr // the instance ends for want of it
	}
	c.setSpot(r, r.State, spotFulfilled, "Your spot request is fulfilled.")
	i.Launched = c.now().UTC()
	return c.setGoing(tx, i)
}

// mayStartSpot refuses to start what only the return of its capacity starts.
func mayStartSpot(tx *state.Tx, i *state.Instance) error {
	if i.SpotRequest == "" {
		return nil
	}
	r, err := state.Get[state.SpotRequest](tx, i.Scope(), i.SpotRequest)
	if errors.Is(err, state.ErrNotFound) || err == nil && !r.Interrupted {
		return nil
	}
	if err != nil {
		return err
	}
	return fail("IncorrectSpotRequestState", "The Spot Instance '%s' was interrupted; its request %s starts it when there is capacity again.", i.ID, r.ID)
}

// interrupt serves an order to interrupt a spot instance, or to end that.
func (d *daemon) interrupt(w http.ResponseWriter, r *http.Request) {
	scope := state.Scope{Account: d.cfg.Account, Region: r.PathValue("region")}
	id, back := r.PathValue("id"), r.URL.Query().Get("back") == "true"
	if err := d.cloud.InterruptSpot(scope, id, back); err != nil {
		d.reply(w, failed(err))
		return
	}
	d.reply(w, buildEvent{})
}

// Interrupt is InterruptSpot of the daemon's cloud. region is where the
// instance is, as in the API.
func (c *Control) Interrupt(ctx context.Context, region, instanceID string, back bool) error {
	resp, err := c.do(ctx, http.MethodPost, "/spot/"+url.PathEscape(region)+"/"+url.PathEscape(instanceID), url.Values{"back": {strconv.FormatBool(back)}})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	var said buildEvent
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		return fmt.Errorf("interrupt %s: %w", instanceID, err)
	}
	switch {
	case said.Code != "":
		return &RefusedError{Code: said.Code, Message: said.Error}
	case said.Error != "":
		return errors.New(said.Error)
	}
	return nil
}
