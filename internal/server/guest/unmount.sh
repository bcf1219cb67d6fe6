# Makes a data disk ready to be unplugged: nothing uses it, and all is written.
# Its lines leave /etc/fstab.
# Variables: volume, device.
# shellcheck shell=sh
# shellcheck disable=SC2154

# users_of FOLDER: the processes that use what is mounted there.
users_of() {
	for process in /proc/[0-9]*; do
		for link in "$process/cwd" "$process/root" "$process"/fd/*; do
			case $(readlink "$link")/ in
			"$1"/*) read -r name <"$process/comm" && echo "$name (${process##*/})" && break ;;
			esac
		done
	done
}

disk=$(find_disk "$volume" "$device" 1) || exit 0 # nothing uses what isn't seen
for part in "$disk" $(parts_of "$disk"); do
	for holder in "/sys/class/block/$part/holders/"*; do
		[ ! -e "$holder" ] || fail "/dev/${holder##*/} is made of it, and would break"
	done
done
sync
for part in "$disk" $(parts_of "$disk"); do
	if grep -q "^/dev/$part " /proc/swaps; then
		swapoff "/dev/$part" || fail "it is swap space in use"
	fi
	mounts_of "$part" | sort -r | while read -r dir; do
		umount "$dir" 2>/dev/null || fail "$dir is in use by $(users_of "$dir" | tr '\n' ' ')"
	done || exit
	uuid=$(uuid_of "$part")
	if [ -n "$uuid" ] && grep -q "^UUID=${uuid}[[:space:]]" /etc/fstab; then
		grep -v "^UUID=${uuid}[[:space:]]" /etc/fstab >/etc/fstab.stead
		sync
		mv /etc/fstab.stead /etc/fstab
		! have systemctl || systemctl daemon-reload 2>/dev/null || true
	fi
done
sync
