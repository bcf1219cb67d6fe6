# Looks at what /etc/fstab mounts, and with fix=yes mends it: each disk but the
# system's own with nofail, so that the server boots without it too, and by
# UUID, since device names change. With gone=yes, which says that the server has
# all its disks, a line whose disk isn't there any more becomes a comment: each
# boot would wait for it. Variables: fix, gone. Writes lines of: word, tab, text.
# What was there before is kept as /etc/fstab.before-stead.
# shellcheck shell=sh
# shellcheck disable=SC2154

exec 3>&1
say() { printf '%s\t%s\n' "$1" "$2" >&3; }

# uuid_of NODE: as blkid tells it, "" when it can't.
uuid_of() { blkid "$1" 2>/dev/null | sed -n 's/.* UUID="\([^"]*\)".*/\1/p'; }

# nowhere UUID: no disk here has it, nor could one that is still locked.
nowhere() {
	! grep -q '^[^#]' /etc/crypttab 2>/dev/null || return 1
	for dir in /sys/class/block/*; do
		[ "$(uuid_of "/dev/${dir##*/}")" != "$1" ] || return 1
	done
}

# mend LINE: the line as it should be, and what is wrong with it as w.
mend() {
	w='' line=$1
	# shellcheck disable=SC2086
	set -f && set -- $line && set +f
	case ${1-} in '' | '#'*) return ;; esac
	[ $# -ge 4 ] || return 0
	source=$1 point=$2 type=$3 options=$4 rest=$5${6:+ $6}
	case $source in
	/dev/* | UUID=* | LABEL=* | PARTUUID=* | PARTLABEL=*) ;;
	*) return 0 ;;
	esac
	case $type in swap | none) return 0 ;; esac
	case $source in
	/dev/sd* | /dev/xvd* | /dev/vd* | /dev/nvme* | /dev/md[0-9]*)
		w=name
		uuid=$(uuid_of "$source")
		[ -z "$uuid" ] || source=UUID=$uuid
		;;
	esac
	case $point in
	/ | /boot | /boot/* | /usr | /var) ;;
	*)
		case ,$options, in
		*,nofail,* | *,noauto,*)
			case ,$options,$source in
			*,noauto,* | *,x-systemd.automount,*) ;;
			*,UUID=*)
				[ "$gone" = yes ] && nowhere "${source#UUID=}" || return 0
				w=gone line="# stead: no disk has it: $line"
				return
				;;
			esac
			;;
		*) w="nofail${w:+ $w}" options=$options,nofail ;;
		esac
		;;
	esac
	[ -z "$w" ] || line="$source $point $type $options${rest:+ $rest}"
}

[ -r /etc/fstab ] || exit 0
new=/etc/fstab.stead-new out=/dev/null changed=''
if [ "$fix" = yes ]; then
	cp -p /etc/fstab "$new"
	out=$new
fi
while IFS= read -r old || [ -n "$old" ]; do
	mend "$old"
	for word in $w; do
		say "$word" "$(echo "$old" | tr -s ' \t' ' ' | cut -d ' ' -f 1,2)"
	done
	[ "$line" = "$old" ] || changed=yes
	printf '%s\n' "$line"
done </etc/fstab >"$out"
[ "$fix" = yes ] || exit 0
if [ -z "$changed" ]; then
	rm -f "$new"
	exit 0
fi
[ -e /etc/fstab.before-stead ] || cp -p /etc/fstab /etc/fstab.before-stead
sync
mv "$new" /etc/fstab
