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

# first_hostname: the name that the first instance had stays.
first_hostname() {
	[ ! -s /etc/hostname ] || return 0
	name=$(metadata meta-data/local-hostname) || return 0
	[ -n "$name" ] || return 0
	echo "${name%%.*}" | save /etc/hostname
	hostname "${name%%.*}"
}

# run_user_data: a script runs once for each instance that this disk was in;
# never a second time, even if it was cut off.
run_user_data() {
	read -r instance </run/stead/instance
	case $instance in i-*) ;; *) return 0 ;; esac
	dir=/var/lib/stead/instances/$instance
	[ ! -e "$dir" ] || return 0
	metadata_reopen
	metadata user-data >/run/stead/user-data 2>/dev/null || : >/run/stead/user-data
	mkdir -p "$dir"
	save "$dir/user-data" </run/stead/user-data
	case $(head -c 2 "$dir/user-data" | tr -d '\0') in '#!') ;; *) return 0 ;; esac
	chmod 700 "$dir/user-data"
	say "user data begins"
	"$dir/user-data" </dev/null >>/var/log/user-data.log 2>&1
	say "user data ended with $?"
}
