package cloud

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// The limits of https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html
const (
	maxTags     = 50
	maxTagKey   = 128
	maxTagValue = 256
)

// tagsFor gives the tags that a request's TagSpecifications put on a new
// resource of the type. kinds are the types that the action can tag at all.
func tagsFor(specs []types.TagSpecification, kind types.ResourceType, kinds ...types.ResourceType) (map[string]string, error) {
	tags := map[string]string{}
	for _, spec := range specs {
		if spec.ResourceType != kind && !slices.Contains(kinds, spec.ResourceType) {
			return nil, invalid(spec.ResourceType, "TagSpecification", "This action makes no resource of that type.")
		}
		if spec.ResourceType != kind {
			continue
		}
		if err := setTags(tags, spec.Tags); err != nil {
			return nil, err
		}
	}
	return tags, nil
}

// setTags writes tags over those in m, all or, on an error, none.
func setTags(m map[string]string, tags []types.Tag) error {
	next, seen := 0, map[string]bool{}
	for k := range m {
		if !reserved(k) { // the cloud's own count as none
			next++
		}
	}
	for _, t := range tags {
		k, v := aws.ToString(t.Key), aws.ToString(t.Value)
		switch {
		case seen[k]:
			return invalid(k, "Tag.Key", "Duplicate tag keys are not allowed.")
		case strings.ContainsFunc(k+v, unicode.IsControl):
			return invalid(k, "Tag", "Tags have no control characters.")
		case k == "" || utf8.RuneCountInString(k) > maxTagKey:
			return invalid(k, "Tag.Key", "Tag keys have 1 to 128 characters.")
		case utf8.RuneCountInString(v) > maxTagValue:
			return invalid(v, "Tag.Value", "Tag values have at most 256 characters.")
		case reserved(k):
			return invalid(k, "Tag.Key", "Tag keys starting with 'aws:' are reserved for internal use.")
		}
		seen[k] = true
		if _, has := m[k]; !has {
			next++
		}
	}
	if next > maxTags {
		return fail("TagLimitExceeded", "A resource has at most %d tags; this would be %d.", maxTags, next)
	}
	for _, t := range tags {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return nil
}

// reserved tells the keys that the cloud alone may write.
func reserved(key string) bool { return strings.HasPrefix(strings.ToLower(key), "aws:") }

// ownTags copies the tags that a user gave.
func ownTags(tags map[string]string) map[string]string {
	own := cloneTags(tags)
	maps.DeleteFunc(own, func(k, _ string) bool { return reserved(k) })
	return own
}

// tagList gives tags as the API does, ordered by key.
func tagList(tags map[string]string) []types.Tag {
	list := make([]types.Tag, 0, len(tags))
	for _, k := range sortedKeys(tags) {
		list = append(list, types.Tag{Key: aws.String(k), Value: aws.String(tags[k])})
	}
	return list
}
