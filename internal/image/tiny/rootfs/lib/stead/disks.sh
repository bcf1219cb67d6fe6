# Disks. shellcheck shell=sh

# grow_root: the root file system takes all of its disk.
grow_root() {
	device=$(root_device)
	read -r sectors <"/sys/class/block/${device#/dev/}/size" || return 0
	# Number of blocks and the block size's logarithm, from the superblock.
	# shellcheck disable=SC2046 # numbers
	set -- $(od -A n -t u4 -j 1028 -N 24 "$device")
	[ $(($1 * (1024 << $6))) -lt $((sectors * 512 - 16777216)) ] || return 0
	resize2fs "$device" >/dev/null 2>&1 && say "root grown to $((sectors / 2048)) MiB"
}

# root_device: the disk that / is on.
root_device() {
	while read -r device dir _; do
		[ "$dir" = / ] && [ -b "$device" ] && echo "$device" && return
	done </proc/mounts
}

# name_disks, name_disk NAME: a link by the disk's serial number, which is the
# volume's ID, as udev makes it.
name_disks() {
	mkdir -p /dev/disk/by-id
	for dir in /sys/block/vd*; do
		[ -e "$dir" ] && name_disk "${dir##*/}"
	done
}

name_disk() {
	read -r serial 2>/dev/null <"/sys/block/$1/serial"
	[ -n "$serial" ] || return 0
	mkdir -p /dev/disk/by-id
	ln -sfn "../../$1" "/dev/disk/by-id/virtio-$serial"
}

# forget_disk DEVICE: a disk was pulled. What was mounted from it is of no use
# any more, and must not be in the way when the disk comes back.
forget_disk() {
	while read -r device dir _; do
		[ "$device" != "$1" ] || umount -l "$dir"
	done </proc/mounts
	for link in /dev/disk/by-id/* /dev/sd*; do
		[ ! -L "$link" ] || [ -e "$link" ] || rm -f "$link"
	done
}

# mount_known: mounts what /etc/fstab names and is there. A disk that is not
# there is no error: it may come later.
mount_known() {
	while read -r spec dir type options _; do
		case $spec in '' | '#'*) continue ;; esac
		case ,$options, in *,noauto,*) continue ;; esac
		! mounted "$dir" || continue
		device=$spec
		case $spec in UUID=* | LABEL=*) device=$(findfs "$spec" 2>/dev/null) ;; esac
		[ -b "$device" ] || continue
		mkdir -p "$dir"
		mount -t "$type" -o "$options" "$device" "$dir" && say "mounted $device on $dir"
	done </etc/fstab
}

mounted() {
	while read -r _ point _; do
		[ "$point" != "$1" ] || return 0
	done </proc/mounts
	return 1
}

# data_disks: the disks that the instance was launched with, beyond its root.
# They get the names that EC2 gives them, and those that have never held
# anything are made ready for use, unless the user data says that it does so.
# Disks that come later are their owner's.
data_disks() {
	names=
	while read -r entry || [ -n "$entry" ]; do
		case $entry in
		ebs*) names="$names $(metadata "meta-data/block-device-mapping/$entry")" ;;
		esac
	done 2>/dev/null <$ANSWERS/4
	root=$(root_device)
	disks=
	for dir in /sys/block/vd*; do
		[ "/dev/${dir##*/}" = "$root" ] || disks="$disks ${dir##*/}"
	done
	# shellcheck disable=SC2086 # two lists
	link_names "$names" $disks
	[ -n "$names" ] || return 0
	! told disks >/dev/null || return 0
	for disk in $disks; do
		prepare_disk "$disk"
	done
	mount_known
}

# link_names NAMES DISK...: /dev/sdf and the like. Disks are attached in the
# order of their names; where the numbers differ, nobody can tell which is
# which, and a wrong name is worse than none.
link_names() {
	names=$1
	shift
	# shellcheck disable=SC2086 # a list
	set -- $names -- "$@"
	[ $(($(count_words "$names") * 2 + 1)) -eq $# ] || return 0
	for name in $names; do
		shift
	done
	shift
	for name in $names; do
		[ -e "/dev/${name#/dev/}" ] || ln -sfn "$1" "/dev/${name#/dev/}"
		shift
	done
}

count_words() {
	# shellcheck disable=SC2086 # a list
	set -- $1
	echo $#
}

# prepare_disk NAME: makes a file system on a disk that has never held
# anything, and notes it in /etc/fstab. The UUID is decided and kept before
# the disk is touched, so that a crash at any point can be told from a disk
# with somebody's data.
prepare_disk() {
	device=/dev/$1
	read -r serial 2>/dev/null <"/sys/block/$1/serial"
	intent=/var/lib/stead/format/${serial:-none}
	if [ -n "$serial" ] && [ -s "$intent" ]; then
		read -r uuid <"$intent"
		if grep -q "^UUID=$uuid " /etc/fstab; then
			rm -f "$intent"
			return 0
		fi
		blank "$1" || never_mounted "$device" "$uuid" || return 0
	else
		[ -n "$serial" ] && blank "$1" || return 0
		read -r uuid </proc/sys/kernel/random/uuid
		mkdir -p /var/lib/stead/format
		echo "$uuid" | save "$intent"
	fi
	/sbin/mke2fs -q -F -t ext4 -m 0 -U "$uuid" "$device" >/dev/null 2>&1 || return 0
	sync "$device"
	dir=/data
	number=1
	while grep -q "^[^#]*[[:space:]]${dir}[[:space:]]" /etc/fstab; do
		number=$((number + 1))
		dir=/data$number
	done
	{
		cat /etc/fstab
		echo "UUID=$uuid $dir ext4 defaults,nofail 0 2"
	} | save /etc/fstab
	rm -f "$intent"
	say "formatted $device for $dir"
}

# blank NAME: whether a disk holds nothing: no signature that blkid knows, and
# zeros at both ends.
blank() {
	read -r sectors <"/sys/block/$1/size"
	[ "$sectors" -ge 4096 ] || return 1
	[ -z "$(blkid -p "/dev/$1" 2>/dev/null)" ] || return 1
	[ ! -e "/sys/block/$1/${1}1" ] || return 1
	zeros "/dev/$1" 0 && zeros "/dev/$1" $((sectors / 8 - 256))
}

# zeros DEVICE BLOCK: whether the MiB that begins at a 4 KiB block is all zero.
zeros() {
	dd if="$1" bs=4096 skip="$2" count=256 2>/dev/null | cmp -s -n 1048576 - /dev/zero
}

# never_mounted DEVICE UUID: whether a disk has just the file system that was
# being made here, unused.
never_mounted() {
	[ "$(blkid -p -s UUID -o value "$1" 2>/dev/null)" = "$2" ] || return 1
	# shellcheck disable=SC2046 # a number
	set -- $(od -A n -t u4 -j 1068 -N 4 "$1")
	[ "$1" = 0 ]
}
