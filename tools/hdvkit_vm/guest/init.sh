#!/bin/busybox sh
# Process 1 of the guest. Makes a small system, says so on the console, and becomes the agent or a shell.
# Options of the kernel's command line: hdvkit.probe=1 powers off at once, hdvkit.shell=1 gives a shell.

/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/sbin:/usr/sbin:/bin:/usr/bin HOME=/root TERM=linux

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/mounts /etc/mtab
echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
echo 'root:x:0:' >/etc/group
hostname guest
ip link set lo up

while read -r module; do
	insmod "/lib/modules/$module" || echo "hdvkit: insmod $module failed"
done </lib/modules/order

option() {
	case " $(cat /proc/cmdline) " in
		*" hdvkit.$1=1 "*) true ;;
		*) false ;;
	esac
}

if option shell; then
	[ -f /run-me.sh ] && sh /run-me.sh
	# cttyhack finds the console's terminal, so that ^C and job control work.
	cd "$(cat /run/start-in 2>/dev/null || echo /)" && setsid cttyhack sh
	poweroff -f
fi

echo "GUEST_READY $(uname -r) $(cut -d' ' -f1 /proc/uptime)"
option probe && poweroff -f

# Orphans become children of this shell, which reaps them while it waits for the agent.
/agent
echo "hdvkit: the agent ended with code $?"
poweroff -f
