# shellcheck shell=sh
dst=${1:-.} several=$2
case $dst in -*) dst=./$dst ;; esac
name=
if [ -d "$dst" ]; then
	dir=$dst
elif [ "$several" = 1 ] || [ "${dst%/}" != "$dst" ]; then
	echo "$dst: there is no such folder" >&2
	exit 4
else
	dir=$(dirname "$dst")
	name=$(basename "$dst")
	if [ ! -d "$dir" ]; then
		echo "$dir: there is no such folder" >&2
		exit 4
	fi
fi

# place FROM TO: renames, and merges folders. Variables are the function's own
# where it matters: a call has its own $1 and $2.
place() {
	if [ ! -d "$2" ]; then
		mv -f "$1" "$2"
		return
	fi
	if [ ! -d "$1" ] || [ -L "$1" ]; then
		echo "$2 is a folder, and a file came" >&2
		return 1
	fi
	chmod u+rwx "$1"
	for f in "$1"/* "$1"/.[!.]* "$1"/..?*; do
		[ -e "$f" ] || [ -L "$f" ] || continue
		place "$f" "$2/${f##*/}" || return
	done
}

tmp=$(mktemp -d "$dir/.stead-cp-XXXXXX") || exit
trap 'chmod -R u+rwx "$tmp" 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM PIPE
tar -x -p -o -f - -C "$tmp" || exit
if [ ! -e "$tmp/ok" ]; then
	echo "the copy was cut off" >&2
	exit 1
fi
# What has come is on the disk before it gets its name, and has its name there
# before this is a success: a snapshot that is taken next has it.
sync || exit
for f in "$tmp"/d/* "$tmp"/d/.[!.]* "$tmp"/d/..?*; do
	[ -e "$f" ] || [ -L "$f" ] || continue
	place "$f" "$dir/${name:-${f##*/}}" || exit
done
sync
