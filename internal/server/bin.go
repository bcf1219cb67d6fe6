package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/rbin"
	rbintypes "github.com/aws/aws-sdk-go-v2/service/rbin/types"
)

// RBin is what the package needs of the Recycle Bin's own service, which keeps
// its rules. *rbin.Client satisfies it.
type RBin interface {
	CreateRule(context.Context, *rbin.CreateRuleInput, ...func(*rbin.Options)) (*rbin.CreateRuleOutput, error)
	UpdateRule(context.Context, *rbin.UpdateRuleInput, ...func(*rbin.Options)) (*rbin.UpdateRuleOutput, error)
	DeleteRule(context.Context, *rbin.DeleteRuleInput, ...func(*rbin.Options)) (*rbin.DeleteRuleOutput, error)
	ListRules(context.Context, *rbin.ListRulesInput, ...func(*rbin.Options)) (*rbin.ListRulesOutput, error)
}

var _ RBin = (*rbin.Client)(nil)

// BinRule is a rule of the Recycle Bin for what stead has tagged.
type BinRule struct {
	ID   string `json:"id"`
	Of   string `json:"of"` // snapshots, images or volumes
	Days int    `json:"days"`
}

// Binned is something that was deleted and can be had back.
type Binned struct {
	ID      string    `json:"id"`
	Of      string    `json:"of"` // snapshots, images or volumes
	About   string    `json:"about,omitempty"`
	Entered time.Time `json:"entered"` // when it was deleted
	Exit    time.Time `json:"exit"`    // when it goes for good
}

// binKind is one of the kinds that have rules of their own.
type binKind struct {
	of      string
	kind    rbintypes.ResourceType
	longest int // days
}

// binKinds are in the order in which things are had back: an image needs its
// snapshots.
func binKinds() []binKind {
	return []binKind{
		{"volumes", rbintypes.ResourceTypeEbsVolume, 7},
		{"snapshots", rbintypes.ResourceTypeEbsSnapshot, 365},
		{"images", rbintypes.ResourceTypeEc2Image, 365},
	}
}

// binTags are what stead's rules are for: everything of every server.
func binTags() []rbintypes.ResourceTag {
	return []rbintypes.ResourceTag{{ResourceTagKey: aws.String(tagSchema), ResourceTagValue: aws.String(schemaVersion)}}
}

// BinRules lists the rules that keep what is deleted of servers; empty: it is
// gone at once.
func (m *Manager) BinRules(ctx context.Context) ([]BinRule, error) {
	rules := []BinRule{}
	if m.rbin == nil {
		return nil, noBin(nil)
	}
	for _, k := range binKinds() {
		in := &rbin.ListRulesInput{ResourceType: k.kind, ResourceTags: binTags()}
		pages := rbin.NewListRulesPaginator(m.rbin, in)
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if unsupported(err) {
				return nil, noBin(err)
			}
			if err != nil {
				return nil, wrap("list", "the recycle bin's rules", err)
			}
			for _, r := range page.Rules {
				one := BinRule{ID: aws.ToString(r.Identifier), Of: k.of}
				if r.RetentionPeriod != nil {
					one.Days = int(aws.ToInt32(r.RetentionPeriod.RetentionPeriodValue))
				}
				rules = append(rules, one)
			}
		}
	}
	return rules, nil
}

func noBin(err error) error {
	return &Error{
		Op: "use", Resource: "the recycle bin", Code: KindUnsupported, Err: err,
		Reason: "this endpoint has none: what is deleted is gone", Remedy: "stead snapshot NAME before you delete, and stead protect NAME",
	}
}

// KeepDeleted has what is deleted of servers kept for some days, by one rule
// for each kind of resource; disks for a week at most. 0 ends that. Repeated,
// it changes nothing.
func (m *Manager) KeepDeleted(ctx context.Context, days int) ([]BinRule, error) {
	if days < 0 || days > 365 {
		return nil, &Error{Op: "use", Resource: "the recycle bin", Code: KindUsage, Reason: fmt.Sprintf("%d days", days), Remedy: "1 to 365; disks are kept for 7 at most"}
	}
	have, err := m.BinRules(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range binKinds() {
		var own []BinRule
		for _, r := range have {
			if r.Of == k.of {
				own = append(own, r)
			}
		}
		if err := m.keepKind(ctx, k, min(days, k.longest), own); err != nil {
			return nil, err
		}
	}
	return m.BinRules(ctx)
}

// keepKind makes, changes or ends the rules for one kind. CreateRule takes no
// client token: one too many, of a call whose answer was lost, does no harm and
// goes the next time.
func (m *Manager) keepKind(ctx context.Context, k binKind, days int, own []BinRule) error {
	stay := &rbintypes.RetentionPeriod{RetentionPeriodUnit: rbintypes.RetentionPeriodUnitDays, RetentionPeriodValue: aws.Int32(int32(days))}
	if days > 0 && len(own) == 0 {
		return m.step("keep deleted "+k.of, fmt.Sprintf("for %d days", days), func() error {
			_, err := m.rbin.CreateRule(ctx, &rbin.CreateRuleInput{
				ResourceType: k.kind, ResourceTags: binTags(), RetentionPeriod: stay, Description: aws.String("stead keeps deleted " + k.of + " of its servers"),
				Tags: []rbintypes.Tag{{Key: aws.String(tagSchema), Value: aws.String(schemaVersion)}},
			})
			return wrap("make", "a rule for deleted "+k.of, err)
		})
	}
	for n, r := range own {
		switch {
		case days == 0 || n > 0:
			if err := m.step("end the rule for deleted "+k.of, r.ID, func() error {
				_, err := m.rbin.DeleteRule(ctx, &rbin.DeleteRuleInput{Identifier: &r.ID})
				if KindOf(err) == KindNotFound {
					return nil
				}
				return wrap("delete", "rule "+r.ID, err)
			}); err != nil {
				return err
			}
		case r.Days != days:
			if err := m.step("keep deleted "+k.of, fmt.Sprintf("for %d days", days), func() error {
				_, err := m.rbin.UpdateRule(ctx, &rbin.UpdateRuleInput{Identifier: &r.ID, RetentionPeriod: stay})
				return wrap("change", "rule "+r.ID, err)
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Bin lists what was deleted and can be had back, the latest first.
func (m *Manager) Bin(ctx context.Context) ([]Binned, error) {
	list := []Binned{}
	add := func(of string, id, about *string, entered, exit *time.Time) {
		list = append(list, Binned{ID: aws.ToString(id), Of: of, About: aws.ToString(about), Entered: aws.ToTime(entered).UTC(), Exit: aws.ToTime(exit).UTC()})
	}
	snaps := ec2.NewListSnapshotsInRecycleBinPaginator(m.ec2, &ec2.ListSnapshotsInRecycleBinInput{})
	for snaps.HasMorePages() {
		page, err := snaps.NextPage(ctx)
		if err != nil {
			return nil, binError(err)
		}
		for _, s := range page.Snapshots {
			add("snapshots", s.SnapshotId, s.Description, s.RecycleBinEnterTime, s.RecycleBinExitTime)
		}
	}
	images := ec2.NewListImagesInRecycleBinPaginator(m.ec2, &ec2.ListImagesInRecycleBinInput{})
	for images.HasMorePages() {
		page, err := images.NextPage(ctx)
		if err != nil {
			return nil, binError(err)
		}
		for _, i := range page.Images {
			add("images", i.ImageId, i.Name, i.RecycleBinEnterTime, i.RecycleBinExitTime)
		}
	}
	for next := (*string)(nil); ; { // the SDK has no paginator for these
		page, err := m.ec2.ListVolumesInRecycleBin(ctx, &ec2.ListVolumesInRecycleBinInput{NextToken: next})
		if err != nil {
			return nil, binError(err)
		}
		for _, v := range page.Volumes {
			about := fmt.Sprintf("%d GiB %s in %s", aws.ToInt32(v.Size), v.VolumeType, aws.ToString(v.AvailabilityZone))
			add("volumes", v.VolumeId, &about, v.RecycleBinEnterTime, v.RecycleBinExitTime)
		}
		if next = page.NextToken; aws.ToString(next) == "" {
			break
		}
	}
	slices.SortStableFunc(list, func(a, b Binned) int { return cmp.Or(b.Entered.Compare(a.Entered), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

func binError(err error) error {
	if unsupported(err) {
		return noBin(err)
	}
	return wrap("list", "the recycle bin", err)
}

// BinRestore has a deleted snapshot, image or volume back, by its ID. One that
// is there already is no error.
func (m *Manager) BinRestore(ctx context.Context, id string) error {
	err := m.step("restore", id, func() error { return m.binRestore(ctx, id) })
	if KindOf(err) != KindNotFound {
		return wrap("restore", id, err)
	}
	if there, lookErr := m.isThere(ctx, id); lookErr == nil && there {
		return nil
	}
	e := &Error{Op: "restore", Resource: id, Code: KindNotFound, Err: err, Reason: "it isn't in the recycle bin, or its time is over", Remedy: "stead bin"}
	if apiCode(err) == "InvalidSnapshot.NotFound" && strings.HasPrefix(id, "ami-") {
		e.Reason, e.Remedy = "a snapshot that it is made of was deleted too", "stead bin, and restore that first"
	}
	return e
}

func (m *Manager) binRestore(ctx context.Context, id string) (err error) {
	switch {
	case strings.HasPrefix(id, "snap-"):
		_, err = m.ec2.RestoreSnapshotFromRecycleBin(ctx, &ec2.RestoreSnapshotFromRecycleBinInput{SnapshotId: &id})
	case strings.HasPrefix(id, "ami-"):
		_, err = m.ec2.RestoreImageFromRecycleBin(ctx, &ec2.RestoreImageFromRecycleBinInput{ImageId: &id})
	case strings.HasPrefix(id, "vol-"):
		_, err = m.ec2.RestoreVolumeFromRecycleBin(ctx, &ec2.RestoreVolumeFromRecycleBinInput{VolumeId: &id})
	default:
		err = &Error{Code: KindUsage, Reason: "it is no ID of a snapshot, an image or a volume", Remedy: "stead bin"}
	}
	return err
}

// isThere tells whether a resource can be seen.
func (m *Manager) isThere(ctx context.Context, id string) (bool, error) {
	switch {
	case strings.HasPrefix(id, "snap-"):
		found, err := m.findSnapshots(ctx, filter("snapshot-id", id))
		return len(found) > 0, err
	case strings.HasPrefix(id, "vol-"):
		v, err := m.volumeByID(ctx, id)
		return v != nil, err
	default:
		found, err := m.findImages(ctx, []string{"self"}, filter("image-id", id))
		return len(found) > 0, err
	}
}
