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

# name_disks: all disks' names.
name_disks() {
	mkdir -p /dev/disk/by-id
	for dir in /sys/block/vd*; do
		[ -e "$dir" ] && name_disk "${dir##*/}"
	done
}

# name_disk NAME: links by the disk's serial number, which is the volume's ID,
# as udev makes them and as they are on EC2; and by its device name: /dev/sdf,
# and /dev/sdf1 for its first partition, or for all of it where it has none.
name_disk() {
	letter=$(slot_letter "$1")
	link_all() { # DEVICE SUFFIX BY-ID-SUFFIX
		[ -z "$letter" ] || link_device "$1" "sd$letter$2" "xvd$letter$2"
		[ -z "$serial" ] || [ "$3" = no ] || {
			ln -sfn "../../$1" "/dev/disk/by-id/virtio-$serial$3"
			ln -sfn "../../$1" "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_$serial$3"
		}
	}
	serial=
	read -r serial 2>/dev/null <"/sys/block/$1/serial"
	link_all "$1" '' ''
	whole=yes
	for part in "/sys/block/$1/$1"[0-9]*; do
		[ -e "$part" ] || continue
		whole=
		part=${part##*/}
		link_all "$part" "${part#"$1"}" "-part${part#"$1"}"
	done
	[ -z "$whole" ] || link_all "$1" 1 no
}

link_device() {
	device=$1
	shift
	for link; do
		# A device of that very name is left alone.
		if [ -L "/dev/$link" ] || [ ! -e "/dev/$link" ]; then
			ln -sfn "$device" "/dev/$link"
		fi
	done
}

# slot_letter NAME: the letter that stands for where the disk is plugged in: a
# for the first port of device 10 on the root bus, and so on, eight to a device.
# Prints nothing for a disk elsewhere.
slot_letter() {
	cd -P "/sys/block/$1" 2>/dev/null || return 0
	slot=${PWD#*/0000:00:1}
	slot=${slot%%/*}
	case $slot in
	[01].[0-7])
		set -- a b c d e f g h i j k l m n o p
		shift $((${slot%.*} * 8 + ${slot#*.}))
		echo "$1"
		;;
	esac
}

# forget_disk DEVICE: a disk was pulled. What was mounted from it is of no use
# any more, and must not be in the way when the disk comes back.
forget_disk() {
	while read -r device dir _; do
		[ "$device" != "$1" ] || umount -l "$dir"
	done </proc/mounts
	for link in /dev/disk/by-id/* /dev/sd* /dev/xvd*; do
		[ ! -L "$link" ] || [ -e "$link" ] || rm -f "$link"
	done
}

# assemble_raid [DEVICE]: puts together the arrays that this system knows: all,
# or what a disk that came is a part of.
assemble_raid() {
	grep -qs '^ARRAY' /etc/mdadm/mdadm.conf /etc/mdadm.conf || return 0
	if [ $# -eq 0 ]; then
		mdadm --assemble --scan --quiet
	else
		mdadm --incremental --quiet "$1"
	fi
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

# data_disks: of the disks that the instance was launched with, those that have
# never held anything are made ready for use, unless the user data says that it
# does so. Disks that come later are their owner's.
data_disks() {
	grep -q '^ebs' "$ANSWERS/4" 2>/dev/null || return 0
	! told disks >/dev/null || return 0
	root=$(root_device)
	for dir in /sys/block/vd*; do
		[ "/dev/${dir##*/}" = "$root" ] || prepare_disk "${dir##*/}"
	done
	mount_known
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
