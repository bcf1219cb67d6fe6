# Makes a new server's data disks usable: finds them, joins them where they are
# to be one, formats what is blank, and mounts it. Before it come DISKS (a list
# of DEVICE:GIB), RAID, FS and MOUNT. Every step is safe to repeat, and nothing
# that holds data is ever formatted. shellcheck shell=sh
# shellcheck disable=SC2154 # what comes before it
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
umask 022
# STEAD_ROOT is for tests.
top=${STEAD_ROOT-}
state=$top/var/lib/stead/disks
fstab=$top/etc/fstab
found=

say() {
	echo "stead: disks: $*"
	echo "stead: disks: $*" 2>/dev/null >"$top/dev/console"
}

fail() {
	say "FAILED: $*" >&2
	exit 1
}

# save FILE: standard input becomes the file's content, all of it or nothing.
save() { cat >"$1.new" && sync && mv -f "$1.new" "$1" && sync; }

# need PROGRAM PACKAGE
need() {
	command -v "$1" >/dev/null && return
	say "this image has no $1; installing $2"
	{
		if command -v apt-get; then
			export DEBIAN_FRONTEND=noninteractive
			apt-get -q -o DPkg::Lock::Timeout=120 update
			apt-get -qy -o DPkg::Lock::Timeout=120 install --no-install-recommends "$2"
		else
			for tool in dnf yum zypper; do
				command -v $tool && $tool -y install "$2" && break
			done
		fi
	} >/dev/null 2>&1 </dev/null
	command -v "$1" >/dev/null || fail "this image has no $1, and package $2 can't be installed: nothing was formatted"
}

# keep_identity: a new instance with this disk is no first boot to cloud-init.
keep_identity() {
	dir=$top/etc/cloud/cloud.cfg.d
	[ ! -d "$dir" ] || [ -s "$dir/99-stead.cfg" ] ||
		printf 'ssh_deletekeys: false\npreserve_hostname: true\n' | save "$dir/99-stead.cfg"
}

# nvme_name DEVICE: where EC2 says that an NVMe disk is plugged in. Its
# controller tells in the vendor's part of what it says of itself.
nvme_name() {
	command -v python3 >/dev/null || return 0
	python3 - "$1" 2>/dev/null <<'PYTHON'
import ctypes, fcntl, os, struct, sys
page = ctypes.create_string_buffer(4096)
identify = struct.pack("<BBHIIIQQ10I", 6, 0, 0, 0, 0, 0, 0, ctypes.addressof(page), 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0)
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0xC0484E41, bytearray(identify))
if page.raw[:2] == b"\x0f\x1d":
    print(page.raw[3072:3104].split(b"\0")[0].decode().strip().replace("/dev/", ""))
PYTHON
}

# slot NAME: sdf1, xvdf and /dev/sdf are all f.
slot() {
	name=${1#/dev/}
	name=${name#xvd}
	name=${name#sd}
	echo "${name%%[0-9]*}"
}

# gib DEVICE: its size; whole DEVICE: whether it is a whole disk.
gib() {
	read -r sectors 2>/dev/null <"$top/sys/class/block/${1##*/}/size" && echo $((sectors / 2097152))
}
whole() { [ -e "$1" ] && [ ! -e "$top/sys/class/block/${1##*/}/partition" ]; }

# candidates: whole disks that nothing is known of yet and that don't run the
# system.
candidates() {
	for dir in "$top"/sys/class/block/*; do
		disk=$top/dev/${dir##*/}
		case ${dir##*/} in vd* | xvd* | nvme*n1) ;; *) continue ;; esac
		whole "$disk" || continue
		ls -d "$dir/${disk##*/}"[p0-9]* >/dev/null 2>&1 && continue
		grep -q "^$disk " "$top/proc/mounts" && continue
		case " $found " in *" $disk "*) continue ;; esac
		echo "$disk"
	done
}

# named DEVICE: the disk that has this name, by link or by its own word.
named() {
	letter=$(slot "$1")
	for name in "$1" "/dev/sd$letter" "/dev/xvd$letter"; do
		disk=$(readlink -f "$top$name" 2>/dev/null)
		whole "$disk" && echo "$disk" && return
	done
	for disk in "$top"/dev/nvme*n1; do
		[ -e "$disk" ] && [ "$(slot "$(nvme_name "$disk")")" = "$letter" ] && echo "$disk" && return
	done
}

# sized GIB: the disk of a size, if there are just as many of it as disks of
# this size are still looked for: blank disks of one size are alike.
sized() {
	wanted=0
	for spec in $DISKS; do
		case " $placed " in *" ${spec%:*} "*) continue ;; esac
		[ "${spec##*:}" != "$1" ] || wanted=$((wanted + 1))
	done
	fitting='' fits=0
	for disk in $(candidates); do
		[ "$(gib "$disk")" = "$1" ] || continue
		fits=$((fits + 1)) fitting=${fitting:-$disk}
	done
	[ $fits -ne $wanted ] || echo "$fitting"
}

# find_disks: sets found to the disks, in the order of DISKS. They may come a
# while after the system.
find_disks() {
	tries=0
	until look; do
		tries=$((tries + 1))
		[ $tries -lt "${STEAD_TRIES:-60}" ] || fail "no disk of ${missing##*:} GiB at ${missing%:*}"
		sleep 1
	done
}

look() {
	found='' placed='' pairs=''
	for how in named sized; do
		for spec in $DISKS; do
			device=${spec%:*}
			case " $placed " in *" $device "*) continue ;; esac
			missing=$spec
			if [ $how = named ]; then disk=$(named "$device"); else disk=$(sized "${spec##*:}"); fi
			[ -n "$disk" ] || continue
			[ "$(gib "$disk")" = "${spec##*:}" ] || continue
			case " $found " in *" $disk "*) continue ;; esac
			placed="$placed $device" found="$found $disk" pairs="$pairs $device=$disk"
			link "$device" "$disk"
		done
	done
	for spec in $DISKS; do
		missing=$spec
		case " $placed " in *" ${spec%:*} "*) ;; *) return 1 ;; esac
	done
}

# link DEVICE DISK: the names that EC2 has for it, where the system hasn't:
# now, and by its serial number from the next boot on.
link() {
	letter=$(slot "$1")
	for name in "${1#/dev/}" "sd$letter" "sd${letter}1"; do
		[ ! -e "$top/dev/$name" ] || continue
		ln -sfn "${2##*/}" "$top/dev/$name"
		rules=$top/etc/udev/rules.d/70-stead-disks.rules
		for file in "$top/sys/class/block/${2##*/}/serial" "$top/sys/class/block/${2##*/}/device/serial"; do
			[ -d "${rules%/*}" ] || continue
			read -r serial 2>/dev/null <"$file" || continue
			rule="SUBSYSTEM==\"block\", ENV{DEVTYPE}==\"disk\", ATTRS{serial}==\"${serial%% *}\", SYMLINK+=\"$name\""
			grep -qxF "$rule" "$rules" 2>/dev/null || echo "$rule" >>"$rules"
			break
		done
	done
}

# blank DISK: no signature, and zeros at both ends.
blank() {
	[ -z "$(blkid -p "$1" 2>/dev/null)" ] || return 1
	read -r sectors <"$top/sys/class/block/${1##*/}/size" && [ "$sectors" -gt 16384 ] || return 1
	zeros "$1" 0 4 && zeros "$1" $((sectors / 2048 - 1)) 1
}
zeros() { dd if="$1" bs=1048576 skip="$2" count="$3" 2>/dev/null | cmp -s -n $(($3 * 1048576)) - /dev/zero; }

refuse() { fail "$1 isn't blank and is left as it is: $(blkid -p "$1" 2>/dev/null || echo "it holds data without a signature")"; }

uuid() { cat /proc/sys/kernel/random/uuid; }
md_uuid() { mdadm "$@" --export 2>/dev/null | sed -n 's/^MD_UUID=//p' | tr -d ':-'; }

# array: prints the device of the array that has the UUID $md, if it runs.
array() {
	for dir in "$top"/sys/block/md*; do
		[ -e "$dir" ] && [ "$(md_uuid --detail "$top/dev/${dir##*/}")" = "$md" ] && echo "$top/dev/${dir##*/}" && return
	done
	return 1
}

# join DISK...: makes the array. Its UUID is decided and kept before a disk is
# touched, so that what was cut off can be told from somebody's data. Where all
# disks are blank, what was decided is about another server's, whose root this
# one's image was made of.
join() {
	[ -d "$top/run/udev" ] || export MDADM_NO_UDEV=1
	md='' stage=
	! all_blank "$@" || forget_array
	if ! read -r md stage 2>/dev/null <"$state/raid"; then
		for disk; do
			blank "$disk" || refuse "$disk"
		done
		md=$(uuid | tr -d -) stage=making
		echo "$md $stage" | save "$state/raid"
	fi
	modprobe "raid$RAID" 2>/dev/null
	array >/dev/null || mdadm --assemble /dev/md/data --uuid="$md" "$@" >/dev/null 2>&1
	if [ "$stage" = making ] && ! array >/dev/null; then
		for disk; do
			blank "$disk" || [ "$(md_uuid --examine "$disk")" = "$md" ] || refuse "$disk"
		done
		# All of them are blank, so all are alike: nothing need be copied.
		bitmap=--bitmap=internal
		[ "$RAID" != 0 ] && set -- --assume-clean "$@" || bitmap=
		# shellcheck disable=SC2086 # none or one
		out=$(mdadm --create /dev/md/data --run --metadata=1.2 --homehost=any --name=data --uuid="$md" --level="$RAID" $bitmap --raid-devices="$count" "$@" 2>&1 </dev/null) ||
			fail "mdadm: $out"
	fi
	array >/dev/null || fail "the array of $* doesn't start"
	echo "$md made" | save "$state/raid"
	note_array
}

all_blank() {
	for disk; do
		blank "$disk" || return 1
	done
}

# forget_array: another server's, which no disk here belongs to.
forget_array() {
	read -r md stage 2>/dev/null <"$state/raid" || return 0
	conf=$top/etc/mdadm.conf
	[ ! -d "$top/etc/mdadm" ] || conf=$top/etc/mdadm/mdadm.conf
	without "UUID=$(md_name)" "$conf"
	rm -f "$state/raid" && stale=yes
}

# md_name: how mdadm writes the UUID $md.
md_name() { echo "$md" | sed 's/......../&:/g;s/:$//'; }

# without TEXT FILE: the file's lines that have TEXT in them go.
without() {
	! grep -qF "$1" "$2" 2>/dev/null || { grep -vF "$1" "$2"; :; } | save "$2"
}

# note_array: so that the next boot knows it.
note_array() {
	conf=$top/etc/mdadm.conf
	[ ! -d "$top/etc/mdadm" ] || conf=$top/etc/mdadm/mdadm.conf
	line="ARRAY /dev/md/data metadata=1.2 UUID=$(md_name)"
	grep -qxF "$line" "$conf" 2>/dev/null && return
	{ cat "$conf" 2>/dev/null; echo "$line"; } | save "$conf"
	stale=yes
}

# format NUMBER DISK DIR: what is noted of a disk holds for the file system with
# its UUID. A blank disk hasn't got that one: then it was another server's, whose
# root this one's image was made of.
format() {
	id='' stage=
	if read -r id stage 2>/dev/null <"$state/$1" && blank "$2"; then
		without "UUID=$id " "$fstab"
		rm -f "$state/$1"
	fi
	if ! read -r id stage 2>/dev/null <"$state/$1"; then
		blank "$2" || refuse "$2"
		id=$(uuid) stage=making
		echo "$id $stage" | save "$state/$1"
	fi
	if [ "$stage" = making ]; then
		blank "$2" || begun "$2" || refuse "$2"
		case $FS in
		xfs) out=$(mkfs.xfs -q -f -m "uuid=$id" -L "data$1" "$2" 2>&1) ;;
		*) out=$(mkfs.ext4 -q -F -m 0 -U "$id" -L "data$1" "$2" 2>&1 </dev/null) ;;
		esac || fail "mkfs of $2: $out"
		echo "$id made" | save "$state/$1"
		say "formatted $2 with $FS"
	fi
	place "$2" "$3"
}

# begun DISK: whether it has just the file system that was being made here, and
# that was never finished: nobody can have mounted it.
begun() { [ "$(blkid -p -s UUID -o value "$1" 2>/dev/null)" = "$id" ] && ! grep -q "^$1 " "$top/proc/mounts"; }

mounted() { grep -q "^[^ ]* $1 " "$top/proc/mounts"; }

# place DISK DIR: notes it in fstab, and mounts it.
place() {
	pass=2
	[ "$FS" != xfs ] || pass=0
	if ! grep -q "^UUID=$id " "$fstab" 2>/dev/null; then
		[ -z "$(ls -A "$top$2" 2>/dev/null)" ] || fail "$2 isn't empty, so nothing is mounted there"
		{ cat "$fstab" 2>/dev/null; echo "UUID=$id $2 $FS defaults,nofail 0 $pass"; } | save "$fstab"
		! command -v systemctl >/dev/null || systemctl daemon-reload 2>/dev/null
	fi
	mkdir -p "$top$2"
	mounted "$2" || out=$(mount -t "$FS" "$1" "$2" 2>&1) || mounted "$2" || fail "mount of $1 at $2: $out"
	say "$2 is $FS on ${1#"$top"}"
}

# alone: waits until nobody else does this. The lock tells whose it is, and is
# nobody's after a crash.
alone() {
	lock=$top/run/stead-disks
	until ln -s $$ "$lock" 2>/dev/null; do
		owner=$(readlink "$lock")
		[ -z "$owner" ] || [ -d "/proc/$owner" ] || rm -f "$lock"
		sleep 1
	done
	trap 'rm -f "$lock"' EXIT
}

main() {
	stale=
	mkdir -p "$state" "$top/run"
	alone
	keep_identity
	[ -n "$DISKS" ] || return 0
	[ "$FS" != xfs ] || need mkfs.xfs xfsprogs
	[ -z "$RAID" ] || need mdadm mdadm
	find_disks
	count=0
	for spec in $DISKS; do count=$((count + 1)); done
	if [ -n "$RAID" ]; then
		# shellcheck disable=SC2086 # a list
		join $found
		format 1 "$(array)" "$MOUNT"
	else
		number=0
		for spec in $DISKS; do
			number=$((number + 1)) dir=$MOUNT
			[ $number -eq 1 ] || dir=$MOUNT$number
			for pair in $pairs; do
				[ "${pair%%=*}" != "${spec%:*}" ] || format $number "${pair#*=}" "$dir"
			done
		done
	fi
	[ -z "$stale" ] || ! command -v update-initramfs >/dev/null || update-initramfs -u >/dev/null 2>&1
	say "all done"
}
