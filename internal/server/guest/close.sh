# Unmounts what open.sh mounted, and writes all of it to the disk.
# Variables: volume, device, dir.
# shellcheck shell=sh
# shellcheck disable=SC2154

# below: what is mounted at the folder and below it, the deepest first.
below() {
	while read -r _ point _; do
		case $point/ in "$dir"/*) echo "$point" ;; esac
	done </proc/mounts | sort -r
}

# users_of: the processes that a shell there has left behind.
users_of() {
	for process in /proc/[0-9]*; do
		for link in "$process/root" "$process/cwd"; do
			case $(readlink "$link")/ in "$dir"/*) echo "${process##*/}" && break ;; esac
		done
	done
}

tries=0
while :; do
	for point in $(below); do
		umount "$point" 2>/dev/null || true
	done
	[ -n "$(below)" ] || break
	tries=$((tries + 1))
	[ $tries -le 10 ] || fail "$dir is in use in the helper: $(users_of | tr '\n' ' ')"
	for pid in $(users_of); do
		if [ $tries -lt 4 ]; then kill "$pid"; else kill -9 "$pid"; fi 2>/dev/null
	done
	sleep 1
done
sync
