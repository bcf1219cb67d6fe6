# Mends what commonly keeps a server from booting or from letting anybody in. It
# runs on the server's own disk, by chroot in a helper, where the other disks
# aren't. Variables: fix, one of fstab, sshd, disk-full, all. What is changed is
# kept beside it as FILE.before-stead, and no file of the user's is deleted.
# shellcheck shell=sh
# shellcheck disable=SC2154
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin
# STEAD_ROOT is for tests.
top=${STEAD_ROOT-}

# keep FILE: beside itself, as it was before the first change.
keep() { [ -e "$1.before-stead" ] || cp -p "$1" "$1.before-stead"; }

# free: the KiB that files can still take.
free() { df -kP "${top:-/}" | awk 'END { print $4 + 0 }'; }

# roomy: whether there is room for what is changed, and for what it was.
roomy() {
	[ "$(free)" -lt 256 ] || return 0
	echo "the disk is full, so nothing can be changed: --fix disk-full first, or a larger disk: stead resize NAME --disk SIZE"
	return 1
}

# fix_fstab: a disk that isn't there, other than those of the system itself, no
# longer holds up the boot. No line is taken out: which disks the server has
# can't be seen from here.
fix_fstab() {
	file=$top/etc/fstab
	[ -r "$file" ] || { echo "there is no /etc/fstab"; return 1; }
	roomy && cp -p "$file" "$file.stead-new" || return 1
	awk '
		$1 !~ /^(\/dev\/|UUID=|LABEL=|PARTUUID=|PARTLABEL=)/ || NF < 4 || $3 == "swap" { print; next }
		$2 !~ /^\// || $2 == "/" || $2 == "/usr" || $2 == "/var" { print; next }
		("," $4 ",") ~ /,(nofail|noauto),/ { print; next }
		{ match($0, /^[ \t]*[^ \t]+[ \t]+[^ \t]+[ \t]+[^ \t]+[ \t]+[^ \t]+/)
		  print substr($0, 1, RLENGTH) ",nofail" substr($0, RLENGTH + 1) }
	' "$file" >"$file.stead-new" || { rm -f "$file.stead-new"; return 1; }
	if cmp -s "$file" "$file.stead-new"; then
		rm -f "$file.stead-new"
		echo "/etc/fstab needs no change"
		return 0
	fi
	keep "$file" && sync && mv "$file.stead-new" "$file" || return 1
	echo "/etc/fstab is now:"
	cat "$file"
}

# fix_sshd: the permissions that sshd insists on, host keys, and a configuration
# that it takes: its own, without the parts of it that it refuses, or the one that
# came with its package.
fix_sshd() {
	dir=$top/etc/ssh
	[ -d "$dir" ] || { echo "there is no /etc/ssh"; return 1; }
	chmod 755 "$dir"
	for file in "$dir"/ssh_host_*_key; do
		[ ! -f "$file" ] || chmod 600 "$file"
	done
	for file in "$dir"/*.pub "$dir"/sshd_config; do
		[ ! -f "$file" ] || chmod 644 "$file"
	done
	command -v sshd >/dev/null || { echo "there is no sshd to ask"; return 1; }
	[ -n "$top" ] || mkdir -p /run/sshd
	ls "$dir"/ssh_host_*_key >/dev/null 2>&1 || ssh-keygen -A
	if why=$(accepts); then
		echo "sshd takes its configuration"
		return 0
	fi
	echo "sshd refuses its configuration: $why"
	roomy || return 1
	while part=$(refused_part); [ -n "$part" ]; do
		mv "$part" "$part.$(date -u +%Y%m%dT%H%M%SZ).before-stead" || return 1
		echo "$part is set aside beside itself"
	done
	! accepts >/dev/null || return 0
	given=$top/usr/share/openssh/sshd_config
	[ -r "$given" ] || { echo "its package left no other: mend /etc/ssh/sshd_config by hand"; return 1; }
	file=$dir/sshd_config
	[ -e "$file.stead-refused" ] || [ ! -e "$file" ] || mv "$file" "$file.stead-refused" || return 1
	cp "$given" "$file" && chmod 644 "$file"
	if why=$(accepts); then
		[ ! -e "$file.stead-refused" ] || mv "$file.stead-refused" "$file.$(date -u +%Y%m%dT%H%M%SZ).before-stead"
		echo "it has the one of its package now; the old one is kept beside it"
		return 0
	fi
	[ ! -e "$file.stead-refused" ] || mv -f "$file.stead-refused" "$file"
	echo "it refuses that of its package too, and has its own again: $why"
	return 1
}

accepts() { sshd -t -f "$top/etc/ssh/sshd_config" 2>&1; }

# refused_part: the file beside the configuration that sshd refuses, if it is
# such a one: without it, the rest is as its owner wants it.
refused_part() {
	accepts | sed -n "s|^\($top/etc/ssh/sshd_config\.d/[^: ]*\.conf\)[: ].*|\1|p" | while read -r part; do
		[ ! -f "$part" ] || { echo "$part" && break; }
	done
}

# fix_disk_full: drops what the system makes again or rotates away itself, and
# names the biggest folders, for somebody to choose from.
fix_disk_full() {
	df -k "${top:-/}" | sed -n '$p'
	! command -v apt-get >/dev/null || apt-get clean
	! command -v journalctl >/dev/null || journalctl -q --vacuum-size=32M
	df -k "${top:-/}" | sed -n '$p'
	echo "the biggest folders, in KiB:"
	du -xk "${top:-/}" 2>/dev/null | sort -rn | head -n 20
	[ "$(free)" -lt 65536 ] || return 0
	echo "that isn't enough. Delete what isn't needed in a shell: stead repair NAME; or enlarge the disk: stead resize NAME --disk SIZE"
	return 1
}

# fix_all: room first, for the others need some, and only where there is none.
fix_all() {
	failed=
	[ "$(free)" -ge 65536 ] || fix_disk_full || failed=1
	fix_fstab || failed=1
	fix_sshd || failed=1
	[ -z "$failed" ]
}

case $fix in
all) fix_all ;;
fstab) fix_fstab ;;
sshd) fix_sshd ;;
disk-full) fix_disk_full ;;
*) exit 2 ;;
esac
