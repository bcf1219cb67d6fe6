# Sourced by all scripts here. shellcheck shell=sh
export PATH=/sbin:/bin:/usr/sbin:/usr/bin
export MDADM_NO_UDEV=1
umask 022

# stamp WORD: a line on the console with the seconds since the kernel started.
stamp() {
	read -r up _ </proc/uptime
	echo "STEAD $1 $up" >/dev/console
}

# say TEXT: a line on the console.
say() { echo "STEAD $*" >/dev/console; }

# save FILE: standard input becomes the file's content, all of it or nothing
# whatever happens, and it is on the disk when this returns.
save() {
	cat >"$1.new" && sync "$1.new" && mv -f "$1.new" "$1" && sync "${1%/*}"
}
