# Mounts the root file system of a disk from another server, in a helper.
# Variables: volume, device, dir. Writes lines of: word, tab, text.
# shellcheck shell=sh
# shellcheck disable=SC2154

say() { printf '%s\t%s\n' "$1" "$2"; }

is_mounted() {
	while read -r _ at _; do
		[ "$at" != "$1" ] || return 0
	done </proc/mounts
	return 1
}

# looks_like_root: whether what is mounted is a system's root.
looks_like_root() { [ -d "$dir/etc" ] && { [ -e "$dir/etc/fstab" ] || [ -d "$dir/usr" ] || [ -d "$dir/sbin" ]; }; }

# try NAME: mounts it, if it holds a system's root.
try() {
	type=$(type_of "$1")
	case $type in
	'' | swap | vfat | linux_raid_member | LVM2_member | crypto_LUKS) return 1 ;;
	# The helper's own file system may have the same UUID.
	xfs) options=nouuid ;;
	*) options=defaults ;;
	esac
	device=/dev/$1
	if ! why=$(mount -t "$type" -o "$options" "/dev/$1" "$dir" 2>&1); then
		problem="$type on /dev/$1 can't be mounted: $(echo "$why" | tail -n 1)"
		return 1
	fi
	looks_like_root || { umount "$dir" && return 1; }
}

disk=$(find_disk "$volume" "$device" 60) || fail "the helper doesn't see the disk $volume"
device=/dev/$disk problem=
mkdir -p "$dir"
if is_mounted "$dir"; then
	for part in "$disk" $(parts_of "$disk"); do
		[ -z "$(mounts_of "$part")" ] || device=/dev/$part
	done
else
	found=
	for part in $(parts_of "$disk") "$disk"; do
		try "$part" && found=1 && break
	done
	if [ -z "$found" ]; then
		say device "$device"
		say problem "${problem:-there is no system on the disk}"
		exit 0
	fi
fi
for fs in dev dev/pts proc sys; do
	[ -d "$dir/$fs" ] || [ "$fs" = dev/pts ] || mkdir -p "$dir/$fs"
	is_mounted "$dir/$fs" || mount -o bind "/$fs" "$dir/$fs" 2>/dev/null || true
done
say device "$device"
say mount "$dir"
for shell in /bin/bash /bin/sh; do
	if chroot "$dir" "$shell" -c : 2>/dev/null; then
		say shell "$shell"
		break
	fi
done
