package server

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	_ "embed"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// maxUserData is how many bytes of user data EC2 takes.
const maxUserData = 16 * 1024

// disksMarker is a line of user data that says: the script that this is in
// looks after the data disks, so the image shall leave them alone.
const disksMarker = "# stead: disks"

//go:embed guest/setup.sh
var setupScript string

// diskSetup is what is to become of a new server's blank disks.
type diskSetup struct {
	Raid, FS, Mount string
	Disks           []setupDisk // by device
}

// setupDisk is a blank disk: the script takes one of another size for another.
type setupDisk struct {
	Device string
	GiB    int
}

// diskSetup is what options and mappings say of the blank disks.
func (o *CreateOptions) diskSetup(mappings []types.BlockDeviceMapping, root string) diskSetup {
	s := diskSetup{Raid: o.Raid, FS: o.FS, Mount: cmp.Or(o.Mount, "/data")}
	if s.Mount == MountNone {
		return s
	}
	for _, m := range mappings {
		if device := aws.ToString(m.DeviceName); m.Ebs != nil && device != root && m.Ebs.SnapshotId == nil {
			s.Disks = append(s.Disks, setupDisk{device, int(aws.ToInt32(m.Ebs.VolumeSize))})
		}
	}
	slices.SortFunc(s.Disks, func(a, b setupDisk) int {
		return cmp.Or(cmp.Compare(slot(a.Device), slot(b.Device)), cmp.Compare(a.Device, b.Device))
	})
	return s
}

// bornSetup is the same, as a launched instance and its disks tell it.
func (o *CreateOptions) bornSetup(i *types.Instance, volumes []types.Volume) diskSetup {
	var mappings []types.BlockDeviceMapping
	for _, v := range volumes {
		m := types.BlockDeviceMapping{
			DeviceName: aws.String(deviceIn(i, aws.ToString(v.VolumeId))),
			Ebs:        &types.EbsBlockDevice{VolumeSize: v.Size},
		}
		if id := aws.ToString(v.SnapshotId); id != "" {
			m.Ebs.SnapshotId = &id
		}
		mappings = append(mappings, m)
	}
	return o.diskSetup(mappings, aws.ToString(i.RootDeviceName))
}

// tagsAt are the facts of the disk at a device, none if it isn't set up.
func (s diskSetup) tagsAt(device string) tagMap {
	for k, d := range s.Disks {
		if d.Device == device {
			return s.tags(k)
		}
	}
	return nil
}

// byImage tells whether the image sets the disks up by itself, and knows the
// server again in a rescue: tiny does, and is sooner done with it.
func (s diskSetup) byImage(tiny bool) bool { return tiny && s.plain() }

// plain tells a setup that the tiny image makes by itself, quicker.
func (s diskSetup) plain() bool {
	return s.Raid == "" && s.FS == fsExt4 && s.Mount == "/data"
}

// mountOf is where the k-th disk is mounted: all of them, if they are one.
func (s diskSetup) mountOf(k int) string {
	if k == 0 || s.Raid != "" {
		return s.Mount
	}
	return fmt.Sprint(s.Mount, k+1)
}

// tags are the facts of the k-th disk.
func (s diskSetup) tags(k int) tagMap {
	t := tagMap{tagMount: s.mountOf(k), tagFS: s.FS}
	if s.Raid != "" {
		t[tagRaid] = fmt.Sprintf("%s %d/%d", s.Raid, k+1, len(s.Disks))
	}
	return t
}

// script is the shell script that sets the disks up. Its comments stay behind:
// user data is short of room.
func (s diskSetup) script() string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n" + disksMarker + "\n")
	var disks []string
	for _, d := range s.Disks {
		disks = append(disks, fmt.Sprintf("%s:%d", d.Device, d.GiB))
	}
	fmt.Fprintf(&b, "DISKS='%s' RAID='%s' FS='%s' MOUNT='%s'\n", strings.Join(disks, " "), s.Raid, s.FS, s.Mount)
	for line := range strings.Lines(setupScript) {
		if text := strings.TrimSpace(line); text != "" && !strings.HasPrefix(text, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// bootData puts the disks' script and the user's own user data together.
// packed says that the image knows compressed user data, as cloud-init does.
func bootData(s diskSetup, own []byte, packed bool) ([]byte, error) {
	own, err := unpacked(own)
	if err != nil {
		return nil, err
	}
	var all []byte
	kind := partType(own)
	switch {
	case len(own) == 0:
		all = []byte(s.script() + "main\n")
	case kind == typeShell:
		all = withScript(s, own)
	case kind != "":
		all = withPart(s, own, kind)
	case len(s.Disks) > 0:
		return nil, &Error{Code: KindUsage, Reason: "the user data is neither a script nor for cloud-init, so nothing can be added to it that would set the data disks up", Remedy: "--mount none leaves them blank"}
	default:
		return own, nil
	}
	return fitting(all, len(own), packed)
}

// fitting compresses user data that is too long.
func fitting(all []byte, own int, packed bool) ([]byte, error) {
	if len(all) <= maxUserData {
		return all, nil
	}
	short := all
	if packed {
		var b bytes.Buffer
		w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is one
		_, _ = w.Write(all)                                   // a Buffer takes everything
		_ = w.Close()
		short = b.Bytes()
	}
	if len(short) > maxUserData {
		return nil, &Error{
			Code:   KindUsage,
			Reason: fmt.Sprintf("user data of %d bytes and what sets the server up are %d bytes, and EC2 takes %d", own, len(short), maxUserData),
			Remedy: "have the user data fetch the rest from somewhere",
		}
	}
	return short, nil
}

// unpacked is user data as it was before somebody compressed it.
func unpacked(own []byte) ([]byte, error) {
	if len(own) > maxUserData {
		return nil, &Error{Code: KindUsage, Reason: "user data is longer than the 16 KiB that EC2 takes", Remedy: "have it fetch the rest from somewhere"}
	}
	if !bytes.HasPrefix(own, []byte{0x1f, 0x8b}) {
		return own, nil
	}
	const limit = 1 << 20
	r, err := gzip.NewReader(bytes.NewReader(own))
	if err == nil {
		own, err = io.ReadAll(io.LimitReader(r, limit+1))
	}
	if err == nil && len(own) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	if err != nil {
		return nil, &Error{Code: KindUsage, Reason: "the compressed user data can't be read", Err: err}
	}
	return own, nil
}

const (
	typeShell     = "text/x-shellscript"
	typeMultipart = "multipart"
)

// partType is the MIME type by which cloud-init knows what user data is, "" for
// what it doesn't know.
func partType(own []byte) string {
	text := string(own)
	for _, t := range []struct{ prefix, kind string }{
		{"#!", typeShell},
		{"#cloud-config-archive", "text/cloud-config-archive"},
		{"#cloud-config-jsonp", "text/cloud-config-jsonp"},
		{"#cloud-config", "text/cloud-config"},
		{"#cloud-boothook", "text/cloud-boothook"},
		{"#include-once", "text/x-include-once-url"},
		{"#include", "text/x-include-url"},
		{"#part-handler", "text/part-handler"},
		{"## template: jinja", "text/jinja2"},
		{"Content-Type:", typeMultipart},
		{"MIME-Version:", typeMultipart},
	} {
		if len(text) >= len(t.prefix) && strings.EqualFold(text[:len(t.prefix)], t.prefix) {
			return t.kind
		}
	}
	return ""
}

// withScript is a script that sets the disks up and then becomes the user's.
// Without its disks the user's isn't run: it would fill the root.
func withScript(s diskSetup, own []byte) []byte {
	var b bytes.Buffer
	b.WriteString(s.script())
	b.WriteString(`own=/var/lib/stead/user-data
mkdir -p "${own%/*}"
`)
	end := "STEAD-" + digest(string(own))[:12]
	if bytes.ContainsRune(own, 0) {
		fmt.Fprintf(&b, "base64 -d >$own <<'%s'\n%s\n%s\n", end, base64.StdEncoding.EncodeToString(own), end)
	} else {
		fmt.Fprintf(&b, "cat >$own <<'%s'\n%s\n%s\n", end, strings.TrimSuffix(string(own), "\n"), end)
	}
	b.WriteString(`chmod 700 $own
if (main); then exec $own "$@"; fi
say "the user data wasn't run: it is $own" >&2
exit 1
`)
	return b.Bytes()
}

// withPart is a MIME message of the disks' script and the user's part, which
// may be such a message itself.
func withPart(s diskSetup, own []byte, kind string) []byte {
	script := s.script() + "main\n"
	border := "stead-" + digest(script, string(own))[:24]
	var b bytes.Buffer
	fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=\"%s\"\nMIME-Version: 1.0\n\n", border)
	fmt.Fprintf(&b, "--%s\nContent-Type: %s; charset=\"utf-8\"\n\n%s\n", border, typeShell, script)
	fmt.Fprintf(&b, "--%s\n", border)
	if kind != typeMultipart {
		fmt.Fprintf(&b, "Content-Type: %s; charset=\"utf-8\"\n\n", kind)
	}
	fmt.Fprintf(&b, "%s\n--%s--\n", own, border)
	return b.Bytes()
}

// verifyDisks makes sure that a server that answers ssh has its disks set up.
// The script is the one of its first boot: it waits for that, goes on from
// where that was cut off, and otherwise has nothing to do.
func (m *Manager) verifyDisks(ctx context.Context, name string, s diskSetup) error {
	if m.guest == nil || len(s.Disks) == 0 {
		return nil
	}
	return m.step("set up data disks", name, func() error {
		v, err := m.Get(ctx, name)
		if err != nil {
			return err
		}
		_, err = m.guest.Run(ctx, v, s.script()+"main\n")
		if kind := KindOf(err); err == nil || kind == KindInterrupted || kind == KindTimeout || kind == KindAuth {
			return err
		}
		return &Error{
			Op: "set up the data disks of", Resource: "server " + name, Code: KindPartial, Err: err,
			Remedy: "mend it with stead ssh " + name + " and repeat the command; the server runs",
		}
	})
}
