# shellcheck shell=sh
recursive=$1 path=${2:-.} root=$3
if [ -n "$root" ]; then
	# Links on another system's disk mean places on that disk.
	todo=$path at=$root links=0
	while [ -n "$todo" ]; do
		part=${todo%%/*}
		case $todo in */*) todo=${todo#*/} ;; *) todo= ;; esac
		case $part in
		'' | .) ;;
		..) [ "$at" = "$root" ] || at=${at%/*} ;;
		*)
			if [ -L "$at/$part" ] && [ $links -lt 40 ]; then
				links=$((links + 1))
				target=$(readlink "$at/$part")
				case $target in /*) at=$root ;; esac
				todo=$target/$todo
			else
				at=$at/$part
			fi
			;;
		esac
	done
	path=$at
fi
case $path in -*) path=./$path ;; esac
if [ ! -e "$path" ]; then
	echo "${path#"$root"}: there is no such file or folder" >&2
	exit 4
fi
if [ -d "$path" ]; then
	if [ "$recursive" != 1 ]; then
		echo "${path#"$root"} is a folder: add -r" >&2
		exit 2
	fi
	cd "$path" || exit
	tar -c -f - .
else
	cd "$(dirname "$path")" || exit
	tar -c -h -f - "./$(basename "$path")"
fi
code=$?
# GNU tar exits with 1 where a file changed while it was read, and says so.
if [ $code = 1 ]; then
	case $(tar --version 2>/dev/null) in *GNU*) code=0 ;; esac
fi
exit $code
