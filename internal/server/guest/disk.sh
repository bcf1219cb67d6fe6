# What the scripts for a server's own system have in common. They run as root
# under any POSIX shell, with busybox or without.
# shellcheck shell=sh

fail() {
	echo "$*" >&2
	exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# serial_of NAME: the serial number of a disk, which is its volume's ID without
# the hyphen. Xen's disks have none.
serial_of() {
	for file in "/sys/block/$1/serial" "/sys/block/$1/device/serial"; do
		serial=
		# It needn't end with a newline, which read takes for a failure.
		[ ! -r "$file" ] || read -r serial <"$file" || true
		[ -z "$serial" ] || { echo "$serial" && return; }
	done
	return 1
}

# find_disk VOLUME DEVICE SECONDS: the kernel's name of a volume's disk. By its
# device name only where the disk has no serial number to know it by.
find_disk() {
	want=$(echo "$1" | tr -d -)
	left=$3
	while :; do
		for dir in /sys/block/*; do
			if [ "$(serial_of "${dir##*/}")" = "$want" ]; then
				echo "${dir##*/}"
				return
			fi
		done
		letter=${2#/dev/}
		letter=${letter#sd}
		letter=${letter#xvd}
		for link in "/dev/xvd$letter" "/dev/sd$letter" "/dev/xvd${letter%%[0-9]*}"; do
			[ -b "$link" ] || continue
			name=$(readlink -f "$link")
			name=${name##*/}
			[ -e "/sys/block/$name" ] && ! serial_of "$name" >/dev/null && echo "$name" && return
		done
		left=$((left - 1))
		[ $left -gt 0 ] || return 1
		sleep 1
	done
}

# parts_of NAME: the partitions of a disk, in the order in which they lie on it.
parts_of() {
	for dir in "/sys/block/$1/$1"*; do
		[ -r "$dir/partition" ] && echo "$(cat "$dir/start") ${dir##*/}"
	done | sort -n | while read -r _ part; do echo "$part"; done
}

# type_of NAME, uuid_of NAME: of the file system on a disk or partition.
type_of() { blkid -p -s TYPE -o value "/dev/$1" 2>/dev/null; }
uuid_of() { blkid -p -s UUID -o value "/dev/$1" 2>/dev/null; }

# mounts_of NAME: where a disk or partition is mounted. By its numbers: the
# name that it was mounted by may be another.
mounts_of() {
	numbers=$(cat "/sys/class/block/$1/dev") || return
	while read -r _ _ dev _ dir _; do
		[ "$dev" != "$numbers" ] || printf '%b\n' "$dir"
	done </proc/self/mountinfo
}
