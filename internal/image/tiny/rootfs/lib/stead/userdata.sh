# User data. Lines of the form "# stead: WORD" in it say something to the
# system itself: see docs/user-data.md. shellcheck shell=sh
INSTANCES=/var/lib/stead/instances

# get_user_data INSTANCE: has the instance's user data on this disk: fetched
# once, and taken apart into the scripts that are in it. Fails when the
# metadata doesn't answer.
get_user_data() {
	USER_DATA=$INSTANCES/$1
	[ ! -e "$USER_DATA/scripts" ] || return 0
	mkdir -p "$USER_DATA"
	metadata user-data >/run/stead/user-data
	case $? in
	0 | 4) ;;
	*) return 1 ;;
	esac
	save "$USER_DATA/user-data" </run/stead/user-data
	rm -rf "$USER_DATA/scripts.new"
	mkdir "$USER_DATA/scripts.new"
	[ ! -s "$USER_DATA/user-data" ] || take_apart "$USER_DATA/user-data" "$USER_DATA/scripts.new"
	sync
	mv "$USER_DATA/scripts.new" "$USER_DATA/scripts"
	sync "$USER_DATA"
}

# take_apart FILE FOLDER: the scripts in user data, in order: a script alone,
# or those of a MIME archive; packed or not. What else there is, such as
# cloud-config, is for other systems.
take_apart() {
	plain=$1
	case $(od -A n -t x1 -N 2 "$1") in *'1f 8b'*)
		plain=/run/stead/user-data.plain
		gunzip -c <"$1" >$plain 2>/dev/null || return 0
		;;
	esac
	case $(head -c 256 "$plain" | tr -d '\0') in
	'#!'*) cp "$plain" "$2/01" ;;
	[Cc]ontent-[Tt]ype:* | MIME-[Vv]ersion:*) tr -d '\r' <"$plain" | mime_parts "$2" ;;
	esac
	for part in "$2"/*; do
		case $part in *.base64)
			base64 -d <"$part" >"${part%.base64}" 2>/dev/null
			rm -f "$part"
			part=${part%.base64}
			;;
		esac
		[ -e "$part" ] || continue
		case $(head -c 2 "$part" | tr -d '\0') in
		'#!') chmod 700 "$part" ;;
		*) rm -f "$part" ;;
		esac
	done
}

# mime_parts FOLDER: writes each part of a MIME archive to a file.
mime_parts() {
	awk -v dir="$1" '
		!boundary && match($0, /boundary="?[^";]+/) {
			boundary = substr($0, RSTART + 9, RLENGTH - 9)
			sub(/^"/, "", boundary)
		}
		boundary && index($0, "--" boundary) == 1 {
			if (file) close(file)
			file = encoding = ""
			head = 1
			parts++
			next
		}
		head && tolower($0) ~ /^content-transfer-encoding:.*base64/ { encoding = ".base64" }
		head && $0 == "" {
			file = sprintf("%s/%02d%s", dir, parts, encoding)
			head = 0
			next
		}
		!head && file { print > file }'
}

# told WORD: prints what user data says after "# stead: WORD"; fails when it
# doesn't say it.
told() {
	for script in "$USER_DATA"/scripts/*; do
		[ -e "$script" ] || return 1
		line=$(grep -m 1 "^# stead: $1\( .*\)\{0,1\}\$" "$script") || continue
		line=${line#"# stead: $1"}
		echo "${line# }"
		return 0
	done
	return 1
}

# run_user_data: scripts run once for each instance that this disk was in;
# never a second time, even if they were cut off.
run_user_data() {
	read -r instance </run/stead/instance
	dir=$INSTANCES/$instance
	[ ! -e "$dir/began" ] || return 0
	: | save "$dir/began"
	for script in "$dir"/scripts/*; do
		[ -e "$script" ] || return 0
		say "user data begins"
		"$script" </dev/null >>/var/log/user-data.log 2>&1
		say "user data ended with $?"
	done
}
