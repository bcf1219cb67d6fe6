// Package image builds the images that the local cloud offers.
//
// The tiny image is a Linux of a few megabytes that boots in seconds even
// without hardware virtualisation: the distribution's cloud kernel, an
// initramfs that loads the virtio drivers, and an ext4 root with busybox and
// dropbear. It does what a durable server needs of its operating system and
// nothing else: an address by DHCP, keys and user data from the instance
// metadata, host keys that belong to the disk and not to the instance, data
// disks mounted by UUID, hot-plug, and a clean shutdown.
//
// Building needs neither root nor loop devices; the guest's own scripts are
// in the tiny folder.
package image
