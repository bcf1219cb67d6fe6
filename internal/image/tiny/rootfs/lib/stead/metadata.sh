# Instance metadata, version 2. shellcheck shell=sh
METADATA=169.254.169.254

# http REQUEST: sends it and prints the answer's body; fails unless it is a
# 200. busybox wget can't PUT. The pipe is held open for writing, so that nc
# doesn't end its half of the connection before the answer is there.
http() {
	[ -p /run/stead/http ] || mkfifo /run/stead/http || return 1
	exec 3<>/run/stead/http
	printf '%s\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" $METADATA >&3
	timeout 3 nc -w 2 $METADATA 80 <&3 2>/dev/null | {
		read -r _ code _ || exit 1
		[ "$code" = 200 ] || exit 1
		while read -r line && [ ${#line} -gt 1 ]; do :; done
		cat
	}
	result=$?
	exec 3>&-
	return $result
}

CRLF=$(printf '\r\nx')
CRLF=${CRLF%x}

# metadata_open: gets a token; fails soon when there is no metadata.
metadata_open() {
	[ -s /run/lease ] || return 1
	token=$(http "PUT /latest/api/token HTTP/1.0${CRLF}X-aws-ec2-metadata-token-ttl-seconds: 21600") || return 1
	[ -n "$token" ] || return 1
	header="${CRLF}X-aws-ec2-metadata-token: $token"
}

# metadata_reopen: takes the token that an earlier script got.
metadata_reopen() {
	read -r token </run/stead/metadata
	header="${CRLF}X-aws-ec2-metadata-token: $token"
}

# metadata PATH: prints the value below /latest/.
metadata() { http "GET /latest/$1 HTTP/1.0$header"; }

# apply_metadata: what this boot takes from the metadata, but the user data.
apply_metadata() {
	key=$(metadata meta-data/public-keys/0/openssh-key) && install_key "$key"
	instance=$(metadata meta-data/instance-id)
	first_hostname
	data_disks
	echo "$instance" >/run/stead/instance
	echo "$token" >/run/stead/metadata
	say "instance $instance"
}
