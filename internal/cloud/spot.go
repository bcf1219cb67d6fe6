package cloud

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

func (c *Cloud) registerSpot() {
	c.ec2Actions["DescribeSpotInstanceRequests"] = handle(c.DescribeSpotInstanceRequests)
	c.ec2Actions["CancelSpotInstanceRequests"] = handle(c.CancelSpotInstanceRequests)
	c.ec2Actions["DescribeSpotPriceHistory"] = handle(c.DescribeSpotPriceHistory)
	c.ec2Actions["RequestSpotInstances"] = handle(c.RequestSpotInstances)
}

// Status codes of spot requests.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html
const (
	spotPending         = "pending-evaluation"
	spotFulfilled       = "fulfilled"
	spotStopped         = "instance-stopped-by-user"
	spotTerminated      = "instance-terminated-by-user"
	spotCanceledRunning = "request-canceled-and-instance-running"
	spotCanceled        = "canceled-before-fulfillment"
	spotExpired         = "schedule-expired"
	spotBad             = "bad-parameters"
)

// checkMarket refuses options of the spot market that no request can have.
// There is no market here, so nothing is interrupted but by InterruptSpot; all
// else is as on EC2.
func checkMarket(in *ec2.RunInstancesInput) error {
	m := in.InstanceMarketOptions
	if m == nil {
		return nil
	}
	switch m.MarketType {
	case types.MarketTypeSpot, "":
	default:
		return unsupported("The market type "+string(m.MarketType), "Use spot, or leave InstanceMarketOptions out.")
	}
	if aws.ToBool(in.DisableApiTermination) {
		return fail("InvalidParameterCombination", "You can't enable termination protection for Spot Instances.")
	}
	o := cmp.Or(m.SpotOptions, &types.SpotMarketOptions{})
	persistent := o.SpotInstanceType == types.SpotInstanceTypePersistent
	stops := o.InstanceInterruptionBehavior == types.InstanceInterruptionBehaviorStop
	switch {
	case o.SpotInstanceType != "" && !slices.Contains(o.SpotInstanceType.Values(), o.SpotInstanceType):
		return invalid(o.SpotInstanceType, "spotInstanceType", "Use one-time or persistent.")
	case o.InstanceInterruptionBehavior == types.InstanceInterruptionBehaviorHibernate:
		return unsupported("Hibernation", "Use stop or terminate.")
	case o.InstanceInterruptionBehavior != "" && !slices.Contains(o.InstanceInterruptionBehavior.Values(), o.InstanceInterruptionBehavior):
		return invalid(o.InstanceInterruptionBehavior, "instanceInterruptionBehavior", "Use stop or terminate.")
	case persistent && !stops:
		return fail("InvalidParameterCombination", "Persistent Spot Instance requests are only supported when the interruption behavior is stop.")
	case !persistent && stops:
		return fail("InvalidParameterCombination", "The interruption behavior stop is only supported for persistent Spot Instance requests.")
	case !persistent && o.ValidUntil != nil:
		return fail("InvalidParameterCombination", "ValidUntil is only supported for persistent Spot Instance requests.")
	case o.BlockDurationMinutes != nil:
		return unsupported("A Spot block", "Leave BlockDurationMinutes out.")
	}
	if o.MaxPrice != nil {
		if price, err := strconv.ParseFloat(*o.MaxPrice, 64); err != nil || !(price > 0.001) {
			return invalid(*o.MaxPrice, "maxPrice", "It must be a number of more than 0.001.")
		}
	}
	return nil
}

// planSpot notes what the requests of a launch have in common.
func (l *launch) planSpot(in *ec2.RunInstancesInput, kinds []types.ResourceType) error {
	if in.InstanceMarketOptions == nil {
		return nil
	}
	tags, err := tagsFor(in.TagSpecifications, types.ResourceTypeSpotInstancesRequest, kinds...)
	if err != nil {
		return err
	}
	o := cmp.Or(in.InstanceMarketOptions.SpotOptions, &types.SpotMarketOptions{})
	l.spot = &state.SpotRequest{
		Persistent: o.SpotInstanceType == types.SpotInstanceTypePersistent, MaxPrice: aws.ToString(o.MaxPrice),
		Behavior: cmp.Or(string(o.InstanceInterruptionBehavior), string(types.InstanceInterruptionBehaviorTerminate)),
	}
	if o.ValidUntil != nil {
		l.spot.ValidUntil = o.ValidUntil.UTC()
	}
	l.spot.Tags = tags
	return nil
}

func lifecycle(i *state.Instance) types.InstanceLifecycleType {
	if i.SpotRequest != "" {
		return types.InstanceLifecycleTypeSpot
	}
	return ""
}

// optionalValue is a filter's value of what may be absent.
func optionalValue(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// spotView is a request with the state of its instance, which shows in its own.
type spotView struct {
	*state.SpotRequest
	instance string // state; empty where there is none
}

// state is disabled while the instance is stopped by its user, and open again
// when that was for want of capacity, as on EC2.
func (v spotView) state() string {
	if v.State == state.SpotActive && (v.instance == state.Stopped || v.instance == state.Stopping) {
		if v.Interrupted {
			return state.SpotOpen
		}
		return string(types.SpotInstanceStateDisabled)
	}
	return v.State
}

func (v spotView) code() string {
	if v.state() == string(types.SpotInstanceStateDisabled) {
		return spotStopped
	}
	return v.Code
}

func (v spotView) kind() types.SpotInstanceType {
	if v.Persistent {
		return types.SpotInstanceTypePersistent
	}
	return types.SpotInstanceTypeOneTime
}

var spotFilters = fields[spotView]{
	"create-time":                   one(func(v spotView) string { return timestamp(v.Created) }),
	"instance-id":                   func(v spotView) []string { return optionalValue(v.InstanceID) },
	"launch.group-id":               func(v spotView) []string { return v.Launch.Instance.Groups },
	"launch.image-id":               one(func(v spotView) string { return v.Launch.Instance.ImageID }),
	"launch.instance-type":          one(func(v spotView) string { return v.Launch.Instance.Type }),
	"launch.kernel-id":              func(v spotView) []string { return optionalValue(v.Launch.Instance.KernelID) },
	"launch.key-name":               func(v spotView) []string { return optionalValue(v.Launch.Instance.KeyName) },
	"launched-availability-zone":    one(func(v spotView) string { return v.Launch.Instance.Zone }),
	"launched-availability-zone-id": one(func(v spotView) string { return zoneID(v.Launch.Instance.Zone) }),
	"product-description":           always[spotView](string(types.RIProductDescriptionLinuxUnix)),
	"spot-instance-request-id":      one(func(v spotView) string { return v.ID }),
	"spot-price":                    func(v spotView) []string { return optionalValue(v.MaxPrice) },
	"state":                         one(spotView.state),
	"status-code":                   one(spotView.code),
	"status-message":                one(func(v spotView) string { return v.Message }),
	"type":                          one(func(v spotView) string { return string(v.kind()) }),
}

// DescribeSpotInstanceRequests lists spot requests; those whose instance is
// gone, for as long as that is described.
func (c *Cloud) DescribeSpotInstanceRequests(ctx context.Context, in *ec2.DescribeSpotInstanceRequestsInput) (*ec2.DescribeSpotInstanceRequestsOutput, error) {
	s := from(ctx).Scope
	var views []spotView
	err := c.db.View(func(tx *state.Tx) error {
		reqs, err := listNamed[state.SpotRequest](tx, s, spotIDs, in.SpotInstanceRequestIds)
		for _, r := range reqs {
			v := spotView{SpotRequest: r}
			if i, err := state.Get[state.Instance](tx, s, r.InstanceID); err == nil {
				v.instance = i.State
			}
			views = append(views, v)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	page, next, err := choose(views, in.SpotInstanceRequestIds, spotIDs, in.Filters, spotFilters, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSpotInstanceRequestsOutput{NextToken: next}
	for _, v := range page {
		out.SpotInstanceRequests = append(out.SpotInstanceRequests, apiSpotRequest(v))
	}
	return out, nil
}

func apiSpotRequest(v spotView) types.SpotInstanceRequest {
	i := v.Launch.Instance
	out := types.SpotInstanceRequest{
		SpotInstanceRequestId: aws.String(v.ID), CreateTime: aws.Time(v.Created), State: types.SpotInstanceState(v.state()), Type: v.kind(),
		InstanceId: optional(v.InstanceID), InstanceInterruptionBehavior: types.InstanceInterruptionBehavior(v.Behavior), SpotPrice: optional(v.MaxPrice),
		LaunchedAvailabilityZone: aws.String(i.Zone), LaunchedAvailabilityZoneId: aws.String(zoneID(i.Zone)), ProductDescription: types.RIProductDescriptionLinuxUnix,
		Status: &types.SpotInstanceStatus{Code: aws.String(v.code()), Message: optional(v.Message), UpdateTime: aws.Time(v.Updated)}, Tags: tagList(v.Tags),
		LaunchSpecification: &types.LaunchSpecification{
			ImageId: aws.String(i.ImageID), InstanceType: types.InstanceType(i.Type), KernelId: optional(i.KernelID), KeyName: optional(i.KeyName), SubnetId: aws.String(i.SubnetID),
			EbsOptimized: aws.Bool(i.EBSOptimized), Monitoring: &types.RunInstancesMonitoringEnabled{Enabled: aws.Bool(i.Monitoring)},
			Placement: &types.SpotPlacement{AvailabilityZone: aws.String(i.Zone)},
		},
	}
	if len(i.UserData) > 0 {
		out.LaunchSpecification.UserData = aws.String(base64.StdEncoding.EncodeToString(i.UserData))
	}
	for _, g := range i.Groups {
		out.LaunchSpecification.SecurityGroups = append(out.LaunchSpecification.SecurityGroups, types.GroupIdentifier{GroupId: aws.String(g)})
	}
	for _, b := range v.Launch.Devices {
		out.LaunchSpecification.BlockDeviceMappings = append(out.LaunchSpecification.BlockDeviceMappings, apiBlockDevice(b))
	}
	if !v.ValidUntil.IsZero() {
		out.ValidUntil = aws.Time(v.ValidUntil)
	}
	return out
}

// CancelSpotInstanceRequests cancels requests: none launches an instance any
// more. An instance that runs goes on; one that is stopped is terminated, for
// only its request could have started it again.
func (c *Cloud) CancelSpotInstanceRequests(ctx context.Context, in *ec2.CancelSpotInstanceRequestsInput) (*ec2.CancelSpotInstanceRequestsOutput, error) {
	if len(in.SpotInstanceRequestIds) == 0 {
		return nil, missing("SpotInstanceRequestId")
	}
	out := &ec2.CancelSpotInstanceRequestsOutput{}
	var jobs []job
	err := c.db.Update(func(tx *state.Tx) error {
		for _, id := range in.SpotInstanceRequestIds {
			r, err := find[state.SpotRequest](tx, from(ctx).Scope, spotIDs, id)
			if err != nil {
				return err
			}
			j, err := c.cancelSpot(tx, r)
			if err != nil {
				return err
			}
			jobs = append(jobs, j...)
			out.CancelledSpotInstanceRequests = append(out.CancelledSpotInstanceRequests, types.CancelledSpotInstanceRequest{
				SpotInstanceRequestId: aws.String(id), State: types.CancelSpotInstanceRequestState(r.State),
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.work.kick(jobs...)
	return out, nil
}

func (c *Cloud) cancelSpot(tx *state.Tx, r *state.SpotRequest) ([]job, error) {
	if r.State != state.SpotOpen && r.State != state.SpotActive {
		return nil, nil
	}
	code := spotCanceled
	var jobs []job
	if i, err := state.Get[state.Instance](tx, r.Scope(), r.InstanceID); err == nil && r.State == state.SpotActive {
		code = spotCanceledRunning
		if i.State == state.Stopped || i.State == state.Stopping {
			code = spotTerminated
			i.Want, i.Resume = state.Terminated, false
			c.enter(i, state.ShuttingDown)
			c.reason(i, "Client.UserInitiatedShutdown", "Its spot request was cancelled while it was stopped")
			jobs = append(jobs, jobOf(i))
			if err := state.Put(tx, i); err != nil {
				return nil, err
			}
		}
	}
	c.setSpot(r, state.SpotCancelled, code, "")
	return jobs, state.Put(tx, r)
}

// DescribeSpotPriceHistory has no prices to tell: this cloud has no market.
func (c *Cloud) DescribeSpotPriceHistory(ctx context.Context, in *ec2.DescribeSpotPriceHistoryInput) (*ec2.DescribeSpotPriceHistoryOutput, error) {
	if z := aws.ToString(in.AvailabilityZone); z != "" {
		if in.AvailabilityZoneId != nil {
			return nil, fail("InvalidParameterCombination", "Only one of AvailabilityZone and AvailabilityZoneId may be specified.")
		}
		if err := checkZone(from(ctx).Region, z); err != nil {
			return nil, err
		}
	}
	err := emptyList(in.Filters, in.MaxResults, in.NextToken, "availability-zone", "availability-zone-id", "instance-type", "product-description", "spot-price", "timestamp")
	return &ec2.DescribeSpotPriceHistoryOutput{SpotPriceHistory: []types.SpotPrice{}}, err
}

// RequestSpotInstances is the older way, which EC2 advises against.
func (c *Cloud) RequestSpotInstances(context.Context, *ec2.RequestSpotInstancesInput) (*ec2.RequestSpotInstancesOutput, error) {
	return nil, unsupported("RequestSpotInstances", "Use RunInstances with InstanceMarketOptions.")
}
