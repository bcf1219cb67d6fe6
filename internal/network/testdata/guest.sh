#!/bin/sh
# guest.sh KERNEL_MODULES OUT: an initramfs of busybox that takes its address
# by DHCP, tries the network and says on its console what it saw.
set -eu
modules=$1 out=$2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/modules"
cp "$(command -v busybox)" "$root/bin/busybox"
for m in drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev \
	drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci net/core/failover \
	drivers/net/net_failover drivers/net/virtio_net; do
	name=$(basename "$m").ko
	if [ -e "$modules/$m.ko" ]; then
		cp "$modules/$m.ko" "$root/modules/$name"
	else
		xz -dc "$modules/$m.ko.xz" >"$root/modules/$name"
	fi
	echo "$name" >>"$root/modules/order"
done
cat >"$root/lease" <<'LEASE'
#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip link set "$interface" mtu "$mtu"
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "nameserver $dns" >/etc/resolv.conf
echo "GUEST lease $ip/$mask $router $dns $domain $hostname $mtu"
LEASE
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs d /dev; mount -t proc p /proc; mount -t sysfs s /sys; mkdir -p /etc
while read -r m; do insmod "/modules/$m"; done </modules/order
ip link set lo up; ip link set eth0 up
udhcpc -i eth0 -n -q -t 20 -T 1 -O mtu -s /lease 2>/dev/null || echo "GUEST no lease"
say() { if "$@" >/tmp.out 2>&1; then echo "GUEST ok $*"; else echo "GUEST failed $*: $(cat /tmp.out)"; fi; }
dmesg -n 1
say ping -c 1 -W 5 172.31.0.1
say ping -c 1 -W 5 -s 8900 172.31.16.20
say nslookup ip-172-31-16-20.ec2.internal
# A static busybox has no working wget: glibc's resolver isn't static.
echo "GUEST metadata $(printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 169.254.169.254 80 | tail -n 1)"
nc -ll -p 7 -e cat &
say nc -w 20 192.0.2.1 80 </dev/null
echo "GUEST ready"
while :; do sleep 1000; done
INIT
chmod +x "$root/init" "$root/lease"
(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$out"
