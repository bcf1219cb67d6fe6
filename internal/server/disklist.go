package server

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// noteDisks keeps the root's list of the server's disks true where no settle
// follows: added has become a disk of the server, removed is about to be none
// any more; nil is none. It looks first, so it can be repeated, and tags
// nothing that is right already.
func (m *Manager) noteDisks(ctx context.Context, name string, added, removed *types.Volume) error {
	w, err := m.observe(ctx, name)
	if err != nil {
		return err
	}
	root := w.root()
	if root == nil {
		return nil // nothing can say it
	}
	want := tagMap{tagDisks: w.deviceList(added, removed)}
	if !isTagValue(want[tagDisks]) {
		return nil // as settle, which writes no such list either
	}
	return m.tag(ctx, aws.ToString(root.VolumeId), tagsOf(root.Tags).missing(want))
}

// deviceList is the list of the server's disks: with an instance what is
// plugged in, as settle has it. Without one, what the root says and the disks
// that there are: a disk that is listed and gone is lost, and stays listed.
func (w *world) deviceList(added, removed *types.Volume) string {
	root := w.root()
	all := []string{deviceOf(root)}
	if w.instance != nil && attachedTo(root) == aws.ToString(w.instance.InstanceId) {
		all = append(all, strings.Fields(devicesOf(w.name, w.instance, w.volumes))...)
	} else {
		for k := range w.volumes {
			all = append(all, deviceOf(&w.volumes[k]))
		}
		all = append(all, strings.Fields(factsOf(root.Tags).Disks)...)
	}
	if added != nil { // the instance may not list it yet
		all = append(all, deviceOf(added))
	}
	var devices []string
	for _, device := range all {
		known := slices.ContainsFunc(devices, func(d string) bool { return sameSlot(d, device) })
		if device != "" && !known && (removed == nil || !sameSlot(device, deviceOf(removed))) {
			devices = append(devices, device)
		}
	}
	slices.Sort(devices)
	return strings.Join(devices, " ")
}
