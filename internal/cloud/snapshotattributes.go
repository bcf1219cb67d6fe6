package cloud

import (
	"context"
	"regexp"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// everybody stands among the accounts that a snapshot is shared with.
const everybody = string(types.PermissionGroupAll)

var accountID = regexp.MustCompile(`^[0-9]{12}$`)

// DescribeSnapshotAttribute tells with whom a snapshot is shared.
func (c *Cloud) DescribeSnapshotAttribute(ctx context.Context, in *ec2.DescribeSnapshotAttributeInput) (*ec2.DescribeSnapshotAttributeOutput, error) {
	if in.SnapshotId == nil {
		return nil, missing("snapshotId")
	}
	var snap *state.Snapshot
	err := c.db.View(func(tx *state.Tx) (err error) {
		snap, err = findSnapshot(tx, from(ctx).Scope, *in.SnapshotId)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSnapshotAttributeOutput{SnapshotId: in.SnapshotId}
	switch in.Attribute {
	case types.SnapshotAttributeNameCreateVolumePermission:
		out.CreateVolumePermissions = []types.CreateVolumePermission{}
		for _, who := range snap.Sharing {
			p := types.CreateVolumePermission{UserId: aws.String(who)}
			if who == everybody {
				p = types.CreateVolumePermission{Group: types.PermissionGroupAll}
			}
			out.CreateVolumePermissions = append(out.CreateVolumePermissions, p)
		}
	case types.SnapshotAttributeNameProductCodes:
		out.ProductCodes = []types.ProductCode{}
	case "":
		return nil, missing("attribute")
	default:
		return nil, invalid(in.Attribute, "attribute", "Use createVolumePermission or productCodes.")
	}
	return out, nil
}

// ModifySnapshotAttribute shares a snapshot, in either of the API's forms: lists
// of its own, or a permission's. There is one account here, so nobody else can
// make use of it; it is kept and shown.
func (c *Cloud) ModifySnapshotAttribute(ctx context.Context, in *ec2.ModifySnapshotAttributeInput) (*ec2.ModifySnapshotAttributeOutput, error) {
	if in.SnapshotId == nil {
		return nil, missing("snapshotId")
	}
	add, remove, err := sharingAsked(in)
	if err != nil {
		return nil, err
	}
	err = c.db.Update(func(tx *state.Tx) error {
		snap, err := findSnapshot(tx, from(ctx).Scope, *in.SnapshotId)
		if err != nil {
			return err
		}
		snap.Sharing = slices.DeleteFunc(snap.Sharing, func(who string) bool { return slices.Contains(remove, who) })
		snap.Sharing = append(snap.Sharing, add...)
		slices.Sort(snap.Sharing)
		snap.Sharing = slices.Compact(snap.Sharing)
		return state.Put(tx, snap)
	})
	return &ec2.ModifySnapshotAttributeOutput{}, err
}

// sharingAsked gives whom a request adds and removes.
func sharingAsked(in *ec2.ModifySnapshotAttributeInput) (add, remove []string, err error) {
	if in.Attribute != "" && in.Attribute != types.SnapshotAttributeNameCreateVolumePermission {
		return nil, nil, invalid(in.Attribute, "attribute", "Use createVolumePermission.")
	}
	listed := slices.Concat(in.UserIds, in.GroupNames)
	if p := in.CreateVolumePermission; p != nil {
		if len(listed) > 0 {
			return nil, nil, fail("InvalidParameterCombination", "The parameter createVolumePermission may not be used in combination with userId or group")
		}
		add, remove = sharers(p.Add), sharers(p.Remove)
	} else {
		switch in.OperationType {
		case types.OperationTypeAdd:
			add = listed
		case types.OperationTypeRemove:
			remove = listed
		default:
			return nil, nil, missing("operationType")
		}
	}
	if len(add)+len(remove) == 0 {
		return nil, nil, missing("createVolumePermission")
	}
	for _, who := range slices.Concat(add, remove) {
		if who != everybody && !accountID.MatchString(who) {
			return nil, nil, invalid(who, "userId", "Give twelve digits, or the group all.")
		}
	}
	return add, remove, nil
}

func sharers(perms []types.CreateVolumePermission) []string {
	var who []string
	for _, p := range perms {
		if p.Group != "" {
			who = append(who, string(p.Group))
		}
		if p.UserId != nil {
			who = append(who, *p.UserId)
		}
	}
	return who
}

// ResetSnapshotAttribute makes a snapshot private again.
func (c *Cloud) ResetSnapshotAttribute(ctx context.Context, in *ec2.ResetSnapshotAttributeInput) (*ec2.ResetSnapshotAttributeOutput, error) {
	if in.SnapshotId == nil {
		return nil, missing("snapshotId")
	}
	if in.Attribute != types.SnapshotAttributeNameCreateVolumePermission {
		return nil, invalid(in.Attribute, "attribute", "Use createVolumePermission.")
	}
	err := c.db.Update(func(tx *state.Tx) error {
		snap, err := findSnapshot(tx, from(ctx).Scope, *in.SnapshotId)
		if err != nil {
			return err
		}
		snap.Sharing = nil
		return state.Put(tx, snap)
	})
	return &ec2.ResetSnapshotAttributeOutput{}, err
}

// DescribeSnapshotTierStatus says of each snapshot that it is where all are: in
// the standard tier.
func (c *Cloud) DescribeSnapshotTierStatus(ctx context.Context, in *ec2.DescribeSnapshotTierStatusInput) (*ec2.DescribeSnapshotTierStatusOutput, error) {
	var snaps []*state.Snapshot
	err := c.db.View(func(tx *state.Tx) (err error) {
		snaps, err = state.List[state.Snapshot](tx, from(ctx).Scope)
		return err
	})
	if err != nil {
		return nil, err
	}
	snaps = slices.DeleteFunc(snaps, func(s *state.Snapshot) bool { return s.Deleted })
	page, next, err := choose(snaps, nil, snapshotIDs, in.Filters, fields[*state.Snapshot]{
		"snapshot-id":            snapshotFilters["snapshot-id"],
		"volume-id":              snapshotFilters["volume-id"],
		"last-tiering-operation": none[*state.Snapshot],
	}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeSnapshotTierStatusOutput{NextToken: next}
	for _, s := range page {
		out.SnapshotTierStatuses = append(out.SnapshotTierStatuses, types.SnapshotTierStatus{
			SnapshotId: aws.String(s.ID), VolumeId: aws.String(s.VolumeID), OwnerId: aws.String(s.Account), Status: types.SnapshotState(s.State),
			StorageTier: types.StorageTierStandard, Tags: tagList(s.Tags),
		})
	}
	return out, nil
}
