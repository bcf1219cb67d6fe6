# Mounts a data disk, now and at each boot, and makes a file system on it
# first if it has never held anything and that is asked for.
# Variables: volume, device, dir, fs (what to make, or nothing). Writes lines
# of: word, tab, text.
# shellcheck shell=sh
# shellcheck disable=SC2154

say() { printf '%s\t%s\n' "$1" "$2"; }

# zeros DEVICE MIB: whether the MiB at an offset is all zero. What can't be read
# isn't.
zeros() {
	[ "$(dd if="$1" bs=1048576 skip="$2" count=1 2>/dev/null | wc -c)" -eq 1048576 ] &&
		[ "$(dd if="$1" bs=1048576 skip="$2" count=1 2>/dev/null | tr -d '\000' | wc -c)" -eq 0 ]
}

# blank NAME: whether a disk holds nothing: no signature that blkid knows, no
# partitions, and zeros at its start and its end.
blank() {
	for tool in blkid dd tr wc; do have $tool || fail "$tool isn't installed on the server, so nobody can tell whether the disk is empty"; done
	[ -z "$(blkid -p "/dev/$1" 2>/dev/null)" ] && [ -z "$(parts_of "$1")" ] || return 1
	for mib in 0 1 2 3 $(($(cat "/sys/block/$1/size") / 2048 - 1)); do
		zeros "/dev/$1" "$mib" || return 1
	done
}

# format NAME: once. The intent is kept before the disk is touched, so that a
# disk on which this was cut short can be told from one with somebody's data;
# and that it is done is kept too, for from then on there may be data.
format() {
	intent=/var/lib/stead-format/$volume
	if [ ! -s "$intent" ]; then
		blank "$1" || fail "the disk isn't empty, and holds nothing that can be mounted; it is left alone"
		mkdir -p "${intent%/*}"
		cat /proc/sys/kernel/random/uuid >"$intent"
		sync
	fi
	read -r uuid stage <"$intent" || true
	[ "$stage" != made ] || return 0
	[ "$(uuid_of "$1")" = "$uuid" ] || blank "$1" || fail "the disk isn't empty, and isn't what was being formatted; it is left alone"
	have "mkfs.$fs" || fail "mkfs.$fs isn't installed on the server; install $(echo "$fs" | sed 's/^ext./e2fs/')progs, then repeat this"
	case $fs in
	xfs) mkfs.xfs -q -f -m "uuid=$uuid" "/dev/$1" ;;
	*) "mkfs.$fs" -q -F -U "$uuid" "/dev/$1" ;;
	esac >/dev/null 2>&1 || fail "mkfs.$fs failed on /dev/$1"
	sync
	echo "$uuid made" >"$intent"
	sync
}

# note_fstab UUID TYPE: a line by UUID, so that no order of disks matters, and
# with nofail, so that the server boots without it.
note_fstab() {
	while read -r spec point _; do
		case $spec in
		"UUID=$1") [ "$point" = "$dir" ] && return 0 || fail "/etc/fstab mounts it at $point" ;;
		'' | '#'*) continue ;;
		esac
		[ "$point" != "$dir" ] || fail "/etc/fstab has something else at $dir"
	done </etc/fstab
	{
		cat /etc/fstab
		echo "UUID=$1 $dir $2 defaults,nofail 0 2"
	} >/etc/fstab.stead
	sync
	mv /etc/fstab.stead /etc/fstab
	! have systemctl || systemctl daemon-reload 2>/dev/null || true
}

disk=$(find_disk "$volume" "$device" 30) || fail "the server doesn't see the disk $volume"
part=$disk
for candidate in $(parts_of "$disk"); do
	[ -z "$(type_of "$candidate")" ] || part=$candidate
done
type=$(type_of "$part")
if [ "$part" = "$disk" ] && [ -n "$fs" ] && [ -z "$(mounts_of "$disk")" ]; then
	intent=/var/lib/stead-format/$volume
	if [ -z "$type" ] || [ -s "$intent" ]; then
		format "$disk"
		type=$(type_of "$disk")
	fi
fi
case $type in
'') fail "there is no file system on it" ;;
linux_raid_member | LVM2_member | crypto_LUKS | swap) fail "it holds $type, which isn't mounted by itself" ;;
esac
if ! mounts_of "$part" | grep -qxF "$dir"; then
	[ ! -d "$dir" ] || [ -z "$(ls -A "$dir" 2>/dev/null)" ] || fail "$dir isn't empty: what is in it would be hidden"
	mkdir -p "$dir"
	note_fstab "$(uuid_of "$part")" "$type"
	mount -t "$type" "/dev/$part" "$dir" || fail "it can't be mounted at $dir"
fi
note_fstab "$(uuid_of "$part")" "$type"
rm -f "/var/lib/stead-format/$volume"
say fs "$type"
say mount "$dir"
