# Lets what is on a disk take all of it, after the disk was enlarged.
# Variables: volume, device, size (GiB). Writes lines of: word, tab, text.
# shellcheck shell=sh
# shellcheck disable=SC2154

say() { printf '%s\t%s\n' "$1" "$2"; }

# await_size NAME: until the kernel has noticed that the disk is larger.
await_size() {
	tries=0
	while [ "$(cat "/sys/block/$1/size")" -lt $((size * 2097152)) ]; do
		tries=$((tries + 1))
		[ $tries -le 60 ] || fail "the kernel still takes /dev/$1 for smaller than $size GiB; a reboot lets it look again"
		[ ! -w "/sys/block/$1/device/rescan_controller" ] || echo 1 >"/sys/block/$1/device/rescan_controller"
		sleep 1
	done
}

# grow_part DISK PART: the last partition takes the rest of the disk.
grow_part() {
	number=$(cat "/sys/block/$1/$2/partition")
	end=$(($(cat "/sys/block/$1/$2/start") + $(cat "/sys/block/$1/$2/size")))
	# Less than 4 MiB behind it is what a partition table keeps for itself.
	[ $(($(cat "/sys/block/$1/size") - end)) -gt 8192 ] || return 0
	if have growpart; then
		# It keeps files, and a full disk, which is to have more room, has none.
		[ ! -w /run ] || export TMPDIR=/run
		growpart "/dev/$1" "$number" >/dev/null || [ $? = 1 ] || fail "growpart failed on /dev/$1"
	elif have sfdisk && have partx; then
		sfdisk --relocate gpt-bak-std "/dev/$1" >/dev/null 2>&1
		echo ', +' | sfdisk -q --no-reread --force -N "$number" "/dev/$1" >/dev/null || fail "sfdisk failed on /dev/$1"
		partx -u "/dev/$1"
	else
		fail "the disk has grown; its partition needs growpart: install cloud-guest-utils, then repeat this"
	fi
}

# grow_fs NAME: the file system, or what else is there, takes all its room.
grow_fs() {
	type=$(type_of "$1")
	dir=$(mounts_of "$1" | head -n 1)
	case $type in
	ext[234])
		have resize2fs || fail "the disk has grown; its file system needs resize2fs: install e2fsprogs, then repeat this"
		if [ -z "$dir" ]; then
			have e2fsck || { say note "its file system isn't mounted, and grows when it is and this is repeated" && return; }
			e2fsck -f -p "/dev/$1" >/dev/null || [ $? = 1 ] || fail "e2fsck found what it can't mend by itself on /dev/$1"
		fi
		resize2fs "/dev/$1" >/dev/null 2>&1 || fail "resize2fs failed on /dev/$1: $(resize2fs "/dev/$1" 2>&1 | tail -n 1)"
		;;
	xfs)
		[ -n "$dir" ] || { say note "its file system isn't mounted, and grows when it is and this is repeated" && return; }
		have xfs_growfs || fail "the disk has grown; its file system needs xfs_growfs: install xfsprogs, then repeat this"
		xfs_growfs -d "$dir" >/dev/null || fail "xfs_growfs failed on $dir"
		;;
	btrfs)
		[ -n "$dir" ] || { say note "its file system isn't mounted, and grows when it is and this is repeated" && return; }
		btrfs filesystem resize max "$dir" >/dev/null || fail "btrfs failed on $dir"
		;;
	linux_raid_member) grow_raid "$1" && return ;;
	LVM2_member) say note "it is LVM's: pvresize /dev/$1, then lvextend -r -l +100%FREE a volume" && return ;;
	swap) say note "it is swap space: swapoff, mkswap and swapon let it take all of the disk" && return ;;
	'') say note "there is no file system on it" && return ;;
	*) say note "its file system, $type, is none that can be grown here" && return ;;
	esac
	say fs "$type"
	[ -z "$dir" ] || say mount "$dir"
	[ -z "$dir" ] || say kib "$(df -kP "$dir" | tail -n 1 | while read -r _ kib _; do echo "$kib"; done)"
}

# grow_raid NAME: a mirror takes all that its smallest disk has.
grow_raid() {
	for md in "/sys/class/block/$1/holders/"md*; do
		[ -e "$md" ] || { say note "its RAID set isn't assembled" && return; }
		md=${md##*/}
		level=$(cat "/sys/block/$md/md/level")
		[ "$level" = raid1 ] || { say note "it is a disk of a set of $level, which can't use more room in place" && return; }
		mdadm --grow "/dev/$md" --size=max >/dev/null 2>&1 || fail "mdadm can't grow /dev/$md: $(mdadm --grow "/dev/$md" --size=max 2>&1 | tail -n 1)"
		grow_fs "$md"
	done
}

disk=$(find_disk "$volume" "$device" 30) || fail "the server doesn't see the disk $volume"
await_size "$disk"
part=$(parts_of "$disk" | tail -n 1)
if [ -n "$part" ]; then
	grow_part "$disk" "$part"
	grow_fs "$part"
else
	grow_fs "$disk"
fi
