# Instance metadata, version 2. shellcheck shell=sh
METADATA=169.254.169.254
ANSWERS=/run/stead/answers

CRLF=$(printf '\r\nx')
CRLF=${CRLF%x}

# exchange REQUESTS: sends them on one connection and prints what comes back.
# busybox wget can't PUT. The pipe is held open for writing, so that nc doesn't
# end its half of the connection before the answers are there.
exchange() {
	[ -p /run/stead/http ] || mkfifo /run/stead/http || return 1
	exec 3<>/run/stead/http
	printf '%s' "$1" >&3
	timeout 5 nc -w 3 $METADATA 80 <&3 2>/dev/null
	exec 3>&-
}

# http REQUEST: prints the answer's body, any bytes. 1 without an answer, 4
# when there is no such thing.
http() {
	exchange "$1${CRLF}Host: $METADATA${CRLF}Connection: close$CRLF$CRLF" | {
		read -r _ code _ || exit 1
		[ "$code" != 404 ] || exit 4
		[ "$code" = 200 ] || exit 1
		while read -r line && [ ${#line} -gt 1 ]; do :; done
		cat
	}
}

# metadata_open: gets a token; fails soon when there is no metadata.
metadata_open() {
	[ -s /run/lease ] || return 1
	token=$(http "PUT /latest/api/token HTTP/1.0${CRLF}X-aws-ec2-metadata-token-ttl-seconds: 21600") || return 1
	[ -n "$token" ] || return 1
	header="${CRLF}X-aws-ec2-metadata-token: $token"
}

# metadata PATH: prints the value below /latest/, any bytes; fails as http does.
metadata() { http "GET /latest/$1 HTTP/1.0$header"; }

# metadata_texts PATH...: gets several values, all of them text, on one
# connection: under emulation that is what a boot waits for. The value of the
# first is then in $ANSWERS/1, and so on; of one that isn't there, no file.
# Fails unless all were answered.
metadata_texts() {
	rm -rf $ANSWERS
	mkdir -p $ANSWERS
	requests=
	while :; do
		requests="${requests}GET /latest/$1 HTTP/1.1${CRLF}Host: $METADATA$header"
		shift
		[ $# -gt 0 ] || break
		requests="$requests$CRLF$CRLF"
	done
	exchange "$requests${CRLF}Connection: close$CRLF$CRLF" | awk -v dir=$ANSWERS '
		{ rest = $0; take() }
		function take() {
			for (;;) {
				if (part == "body") {
					if (left > length(rest)) {
						body = body rest "\n"
						left -= length(rest) + 1
						if (left == 0) finish()
						return
					}
					body = body substr(rest, 1, left)
					rest = substr(rest, left + 1)
					finish()
				}
				sub(/\r$/, "", rest)
				if (part == "") {
					if (split(rest, status, " ") < 2) exit 1
					part = "head"
					left = 0
				} else if (rest == "") {
					if (left == 0) finish()
					else part = "body"
				} else if (tolower(rest) ~ /^content-length:/) {
					left = substr(rest, 16) + 0
				}
				return
			}
		}
		function finish() {
			answers++
			if (status[2] == 401) exit 1
			if (status[2] == 200) {
				printf "%s", body > (dir "/" answers)
				close(dir "/" answers)
			}
			body = part = ""
		}
		END { printf "%d\n", answers > (dir "/count") }'
	read -r answers 2>/dev/null <$ANSWERS/count
	[ "${answers:-0}" = "$(printf '%s' "$requests" | grep -c '^GET ')" ]
}

# apply_metadata: what this boot takes from the metadata, but for running the
# user data. Fails, and can be tried again, when an answer is missing.
apply_metadata() {
	metadata_texts meta-data/instance-id meta-data/public-keys/0/openssh-key \
		meta-data/local-hostname meta-data/block-device-mapping/ || return 1
	read -r instance 2>/dev/null <$ANSWERS/1
	case $instance in i-*) ;; *) return 1 ;; esac
	get_user_data "$instance" || return 1
	new_identity "$instance"
	key=
	read -r key 2>/dev/null <$ANSWERS/2
	install_key "$key"
	first_hostname
	data_disks
	echo "$instance" >/run/stead/instance
	: >/run/stead/metadata
	say "instance $instance"
}
