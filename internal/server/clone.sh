#!/bin/sh
# stead: new-identity
# stead: hostname @NAME@
# This server is a copy of another one's disks. Images of stead's own heed the
# lines above before anybody logs in. On others this makes host keys, a machine
# ID and a name of its own, once.
[ ! -d /usr/lib/stead ] && [ ! -d /lib/stead ] || exit 0
old=$(hostname)
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
ssh-keygen -A >/dev/null
: >/etc/machine-id
if command -v systemd-machine-id-setup >/dev/null; then
	systemd-machine-id-setup >/dev/null
fi
[ ! -e /var/lib/dbus/machine-id ] || cp /etc/machine-id /var/lib/dbus/machine-id
echo @NAME@ >/etc/hostname
hostname @NAME@
if [ -n "$old" ]; then
	sed -i "s/[[:space:]]$old\$/ @NAME@/" /etc/hosts
fi
systemctl restart ssh sshd 2>/dev/null || true
{
	echo "-----BEGIN SSH HOST KEY KEYS-----"
	cat /etc/ssh/ssh_host_*_key.pub
	echo "-----END SSH HOST KEY KEYS-----"
} >/dev/console
