# Mounts, to be read, the disks of a snapshot set in a helper, as far as a path
# needs them. The disks are copies of the snapshots: that a journal is played
# back on them changes no snapshot.
# Variables: dir, path, and disks: words VOLUME,DEVICE HERE,DEVICE THEN,MOUNT,
# the root's first with MOUNT "/" if there is one. Writes lines of: word, tab,
# text; "more" when it needs the data disks, too.
# shellcheck shell=sh
# shellcheck disable=SC2154

say() { printf '%s\t%s\n' "$1" "$2"; }

# mount_ro NAME FOLDER
mount_ro() {
	type=$(type_of "$1")
	case $type in
	'' | swap | linux_raid_member | LVM2_member | crypto_LUKS) return 1 ;;
	xfs) sets='ro,nouuid ro,nouuid,norecovery' ;;
	ext[234]) sets='ro ro,noload' ;;
	*) sets=ro ;;
	esac
	mkdir -p "$2"
	for options in $sets; do
		mount -t "$type" -o "$options" "/dev/$1" "$2" 2>/dev/null && return
	done
	say problem "$type on /dev/$1 can't be mounted"
	return 1
}

is_mounted() {
	while read -r _ at _; do
		[ "$at" != "$1" ] || return 0
	done </proc/mounts
	return 1
}

# names: the kernel's names of all that the set's disks hold.
names() {
	for word in $disks; do
		name=$(find_disk "${word%%,*}" "$(echo "$word" | cut -d , -f 2)" 30) || fail "the helper doesn't see the disk ${word%%,*}"
		echo "$name"
		parts_of "$name"
	done
	for md in /sys/block/md*; do
		[ ! -e "$md/md" ] || echo "${md##*/}"
	done
}

# assemble: RAID sets of the set's disks, to be read.
assemble() {
	for name in $(names); do
		[ "$(type_of "$name")" = linux_raid_member ] || continue
		have mdadm || fail "the disks are a RAID set, and the helper has no mdadm: name another --image"
		mdadm --assemble --scan --readonly --run >/dev/null 2>&1 || true
		return
	done
}

# find_spec SPEC: the kernel's name of what fstab calls so.
find_spec() {
	for name in $(names); do
		case $1 in
		UUID=*) [ "$(uuid_of "$name")" != "${1#UUID=}" ] || { echo "$name" && return; } ;;
		LABEL=*) [ "$(blkid -p -s LABEL -o value "/dev/$name" 2>/dev/null)" != "${1#LABEL=}" ] || { echo "$name" && return; } ;;
		esac
	done
	for word in $disks; do
		[ "$(echo "$word" | cut -d , -f 3)" != "$1" ] || find_disk "${word%%,*}" "$(echo "$word" | cut -d , -f 2)" 1
	done
}

# mount_point: the line of the old fstab whose place is the nearest above path.
mount_point() {
	best=
	while read -r spec point type _; do
		case $spec in '' | '#'*) continue ;; esac
		case $type in proc | sysfs | tmpfs | devpts | swap | none) continue ;; esac
		case $path/ in "${point%/}"/*) ;; *) continue ;; esac
		[ "$point" != / ] && [ ${#point} -gt ${#best} ] && best=$point found=$spec
	done <"$dir/etc/fstab"
	[ -z "$best" ] || echo "$found $best"
}

# by_tag: which disk the path is on, as the disks' tags say: for what has no
# fstab, or one that doesn't know them by name.
by_tag() {
	best=
	for word in $disks; do
		point=$(echo "$word" | cut -d , -f 4)
		case $point in '' | /) continue ;; esac
		case $path/ in "$point"/*) [ ${#point} -le ${#best} ] || best=$point disk=${word%%,*} ;; esac
	done
	[ -z "$best" ] || echo "$disk $best"
}

# shellcheck disable=SC2086 # the words are the disks
set -- $disks
first=$1
if [ "${first##*,}" = / ] && ! is_mounted "$dir"; then
	name=$(find_disk "${first%%,*}" "$(echo "$first" | cut -d , -f 2)" 60) || fail "the helper doesn't see the disk ${first%%,*}"
	for part in $(parts_of "$name") "$name"; do
		mount_ro "$part" "$dir" || continue
		[ ! -d "$dir/etc" ] || break
		umount "$dir"
	done
	is_mounted "$dir" || fail "there is no system on the disk ${first%%,*}"
fi
mkdir -p "$dir"
line=
[ ! -r "$dir/etc/fstab" ] || line=$(mount_point)
tagged=$(by_tag)
if [ -z "$line$tagged" ]; then
	say root "$dir"
	exit 0
fi
if [ $# = 1 ] && [ "${first##*,}" = / ] && [ -z "$all" ]; then
	say more "$line$tagged"
	exit 0
fi
assemble
name=
point=
if [ -n "$line" ]; then
	point=${line##* }
	name=$(find_spec "${line%% *}")
fi
if [ -z "$name" ] && [ -n "$tagged" ]; then
	point=${tagged##* }
	name=$(find_disk "${tagged%% *}" none 10)
	for part in $(parts_of "$name"); do
		[ -z "$(type_of "$part")" ] || name=$part
	done
	for holder in "/sys/class/block/$name/holders/"md*; do
		[ ! -e "$holder" ] || name=${holder##*/}
	done
fi
[ -n "$name" ] || fail "what was mounted at ${point:-$path} isn't in the set"
is_mounted "$dir$point" || if [ -d "$dir$point" ]; then
	mount_ro "$name" "$dir$point" || fail "/dev/$name can't be mounted"
else
	# Without its root: what is above the mount is a folder of the helper's.
	mkdir -p "$dir$point" && mount_ro "$name" "$dir$point" || fail "/dev/$name can't be mounted"
fi
say root "$dir"
