package cloud

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/steadcloud/stead/internal/state"
)

// tagged is one resource as the tag actions see it.
type tagged struct {
	id   string
	tags map[string]string
	put  func(tags map[string]string) error
}

// tagKind is a kind of resource that has tags.
type tagKind struct {
	ids      idKind
	resource types.ResourceType
	get      func(tx *state.Tx, s state.Scope, id string) (tagged, error)
	list     func(tx *state.Tx, s state.Scope) ([]tagged, error)
}

// tagKinds are told apart by the prefixes of their IDs.
func tagKinds() []tagKind {
	return []tagKind{
		kindOf[state.Instance](instanceIDs, types.ResourceTypeInstance),
		kindOf[state.Volume](volumeIDs, types.ResourceTypeVolume),
		snapshotKind(),
		kindOf[state.Image](imageIDs, types.ResourceTypeImage),
		kindOf[state.Image](kernelIDs, types.ResourceTypeImage),
		kindOf[state.KeyPair](keyPairIDs, types.ResourceTypeKeyPair),
		kindOf[state.SecurityGroup](groupIDs, types.ResourceTypeSecurityGroup),
		ruleKind(),
		kindOf[state.Address](addressIDs, types.ResourceTypeElasticIp),
		kindOf[state.VPC](vpcIDs, types.ResourceTypeVpc),
		kindOf[state.Subnet](subnetIDs, types.ResourceTypeSubnet),
		kindOf[state.SpotRequest](spotIDs, types.ResourceTypeSpotInstancesRequest),
		kindOf[state.ReplaceRootTask](taskIDs, types.ResourceTypeReplaceRootVolumeTask),
	}
}

// kindOf is a kind whose records carry their own tags.
func kindOf[T any, P interface {
	*T
	record
}](ids idKind, resource types.ResourceType) tagKind {
	see := func(tx *state.Tx, rec P) tagged {
		return tagged{rec.Common().ID, rec.Common().Tags, func(tags map[string]string) error {
			rec.Common().Tags = tags
			return state.Put(tx, rec)
		}}
	}
	return tagKind{
		ids: ids, resource: resource,
		get: func(tx *state.Tx, s state.Scope, id string) (tagged, error) {
			rec, err := find[T, P](tx, s, ids, id)
			if err != nil {
				return tagged{}, err
			}
			return see(tx, rec), nil
		},
		list: func(tx *state.Tx, s state.Scope) ([]tagged, error) {
			recs, err := state.List[T, P](tx, s)
			if err != nil {
				return nil, err
			}
			var all []tagged
			for _, rec := range recs {
				// Two kinds may share one type of record, told by the ID.
				if strings.HasPrefix(P(rec).Common().ID, ids.prefix+"-") {
					all = append(all, see(tx, rec))
				}
			}
			return all, nil
		},
	}
}

// snapshotKind leaves out the snapshots that are deleted but for their data.
func snapshotKind() tagKind {
	k := kindOf[state.Snapshot](snapshotIDs, types.ResourceTypeSnapshot)
	get, list := k.get, k.list
	k.get = func(tx *state.Tx, s state.Scope, id string) (tagged, error) {
		if _, err := findSnapshot(tx, s, id); err != nil {
			return tagged{}, err
		}
		return get(tx, s, id)
	}
	k.list = func(tx *state.Tx, s state.Scope) ([]tagged, error) {
		all, err := list(tx, s)
		return slices.DeleteFunc(all, func(t tagged) bool {
			_, err := findSnapshot(tx, s, t.id)
			return err != nil
		}), err
	}
	return k
}

// ruleKind is that of security group rules, which their groups' records hold.
func ruleKind() tagKind {
	list := func(tx *state.Tx, s state.Scope) ([]tagged, error) {
		groups, err := state.List[state.SecurityGroup](tx, s)
		if err != nil {
			return nil, err
		}
		var all []tagged
		for _, g := range groups {
			for i, r := range g.Rules {
				all = append(all, tagged{r.ID, r.Tags, func(tags map[string]string) error {
					g.Rules[i].Tags = tags
					return state.Put(tx, g)
				}})
			}
		}
		return all, nil
	}
	get := func(tx *state.Tx, s state.Scope, id string) (tagged, error) {
		all, err := list(tx, s)
		if err != nil {
			return tagged{}, err
		}
		i := slices.IndexFunc(all, func(t tagged) bool { return t.id == id })
		if i < 0 {
			return tagged{}, ruleIDs.missing(id)
		}
		return all[i], nil
	}
	return tagKind{ids: ruleIDs, resource: types.ResourceTypeSecurityGroupRule, get: get, list: list}
}

// kindNamed finds the kind that an ID is of.
func kindNamed(id string) (tagKind, error) {
	prefix, _, _ := strings.Cut(id, "-")
	for _, k := range tagKinds() {
		if k.ids.prefix == prefix && k.ids.check(id) == nil {
			return k, nil
		}
	}
	return tagKind{}, fail("InvalidID", "The ID '%s' is not valid", id)
}

// maxTagged is how many resources one call takes.
const maxTagged = 1000

// retag changes the tags of every resource named, or of none.
func (c *Cloud) retag(ctx context.Context, ids []string, change func(tags map[string]string) error) error {
	switch {
	case len(ids) == 0:
		return missing("resourceIdSet")
	case len(ids) > maxTagged:
		return fail("InvalidParameterValue", "One call takes %d resources, not %d.", maxTagged, len(ids))
	}
	return c.db.Update(func(tx *state.Tx) error {
		for _, id := range ids {
			k, err := kindNamed(id)
			if err != nil {
				return err
			}
			res, err := k.get(tx, from(ctx).Scope, id)
			if err != nil {
				return err
			}
			tags := res.tags
			if tags == nil {
				tags = map[string]string{}
			}
			if err := change(tags); err != nil {
				return err
			}
			if err := res.put(tags); err != nil {
				return err
			}
		}
		return nil
	})
}

// CreateTags adds tags to resources or overwrites those with the same keys.
func (c *Cloud) CreateTags(ctx context.Context, in *ec2.CreateTagsInput) (*ec2.CreateTagsOutput, error) {
	if len(in.Tags) == 0 {
		return nil, missing("tagSet")
	}
	err := c.retag(ctx, in.Resources, func(tags map[string]string) error { return setTags(tags, in.Tags) })
	if err != nil {
		return nil, err
	}
	return &ec2.CreateTagsOutput{}, nil
}

// DeleteTags takes tags away: all of them when none is named; one named
// without a value whatever its value; one with a value only if it has that.
func (c *Cloud) DeleteTags(ctx context.Context, in *ec2.DeleteTagsInput) (*ec2.DeleteTagsOutput, error) {
	err := c.retag(ctx, in.Resources, func(tags map[string]string) error {
		if len(in.Tags) == 0 {
			maps.DeleteFunc(tags, func(k, _ string) bool { return !reserved(k) })
		}
		for _, t := range in.Tags {
			if t.Key == nil {
				return missing("Tag.Key")
			}
			if reserved(*t.Key) {
				return invalid(*t.Key, "Tag.Key", "Tag keys starting with 'aws:' are reserved for internal use.")
			}
			if v, ok := tags[*t.Key]; ok && (t.Value == nil || *t.Value == v) {
				delete(tags, *t.Key)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2.DeleteTagsOutput{}, nil
}

// tagRow is one tag of one resource.
type tagRow struct {
	listed
	id, key, value string
	resource       types.ResourceType
}

var tagFilters = fields[*tagRow]{
	"key":           one(func(r *tagRow) string { return r.key }),
	"value":         one(func(r *tagRow) string { return r.value }),
	"resource-id":   one(func(r *tagRow) string { return r.id }),
	"resource-type": one(func(r *tagRow) string { return string(r.resource) }),
}

// DescribeTags lists the tags of all resources, ordered by resource and key.
func (c *Cloud) DescribeTags(ctx context.Context, in *ec2.DescribeTagsInput) (*ec2.DescribeTagsOutput, error) {
	var rows []*tagRow
	err := c.db.View(func(tx *state.Tx) (err error) {
		rows, err = tagRows(tx, from(ctx).Scope)
		return err
	})
	if err != nil {
		return nil, err
	}
	if rows, err = filter(rows, in.Filters, tagFilters); err != nil {
		return nil, err
	}
	page, next, err := paginate(rows, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeTagsOutput{NextToken: next}
	for _, r := range page {
		out.Tags = append(out.Tags, types.TagDescription{
			ResourceId: aws.String(r.id), ResourceType: r.resource, Key: aws.String(r.key), Value: aws.String(r.value),
		})
	}
	return out, nil
}

func tagRows(tx *state.Tx, s state.Scope) ([]*tagRow, error) {
	var rows []*tagRow
	for _, k := range tagKinds() {
		all, err := k.list(tx, s)
		if err != nil {
			return nil, err
		}
		for _, res := range all {
			for key, value := range res.tags {
				row := &tagRow{listedAs(res.id + "/" + key), res.id, key, value, k.resource}
				row.Tags = map[string]string{key: value}
				rows = append(rows, row)
			}
		}
	}
	slices.SortFunc(rows, func(a, b *tagRow) int { return strings.Compare(a.ID, b.ID) })
	return rows, nil
}
