# Who this server is. All of it belongs to the disk: a new instance with an old
# disk is the same server. shellcheck shell=sh
# host_keys: makes the host keys once in a disk's life. A key that was cut off
# in the making never gets its final name. Clients take the kinds in different
# orders; an RSA key, which is slow to make, dropbear makes for the first that
# insists on one.
host_keys() {
	for kind in ed25519 ecdsa; do
		file=/etc/dropbear/dropbear_${kind}_host_key
		if [ ! -s "$file" ]; then
			rm -f "$file.new"
			dropbearkey -t $kind -f "$file.new" >/dev/null 2>&1
			sync "$file.new" && mv -f "$file.new" "$file" && sync /etc/dropbear
		fi
		[ -s "$file.pub" ] || dropbearkey -y -f "$file" | grep '^[es]' | save "$file.pub"
	done
}

# print_host_keys: on the console at every boot, as cloud-init does: the only
# way in which a host key can be known before the first connection.
print_host_keys() {
	{
		echo "-----BEGIN SSH HOST KEY KEYS-----"
		for file in /etc/dropbear/*.pub; do
			read -r public <"$file" && echo "$public"
		done
		echo "-----END SSH HOST KEY KEYS-----"
	} >/dev/console
}

# install_key KEY: lets the instance's key pair in, as both users, beside the
# keys that are there.
install_key() {
	[ -n "$1" ] || return 0
	for home in /root /home/ec2-user; do
		file=$home/.ssh/authorized_keys
		! grep -qxF "$1" "$file" 2>/dev/null || continue
		{
			cat "$file" 2>/dev/null
			echo "$1"
		} | save "$file"
		chmod 600 "$file"
	done
}

# new_identity INSTANCE: where the user data says that this is a new server, on
# a copy of another one's disk, it gets host keys and a name of its own: once
# for an instance.
new_identity() {
	told new-identity >/dev/null || return 0
	made=/var/lib/stead/identity
	! grep -qxF "$1" $made 2>/dev/null || return 0
	rm -f /etc/hostname /etc/machine-id /etc/dropbear/*
	machine_id
	host_keys
	echo "$1" | save $made
	# Late metadata: the server has the old keys already; init starts it anew.
	[ ! -s /run/dropbear.pid ] || kill "$(cat /run/dropbear.pid)"
	say "new identity"
}

# machine_id: what programs know this system by.
machine_id() {
	[ ! -s /etc/machine-id ] || return 0
	read -r uuid </proc/sys/kernel/random/uuid
	echo "$uuid" | tr -d - | save /etc/machine-id
}

# first_hostname: what the user data says, or the name that the first instance
# had, stays.
first_hostname() {
	[ ! -s /etc/hostname ] || return 0
	name=$(told hostname) || read -r name 2>/dev/null <"$ANSWERS/3"
	[ -n "$name" ] || return 0
	echo "${name%%.*}" | save /etc/hostname
	hostname "${name%%.*}"
}
