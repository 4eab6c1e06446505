#!/bin/bash
# mount(8), fstab(5) and umount(8) with the helpers where mount(8) looks for them: in a mount namespace of the test's own.
if [ "$(id -u)" -eq 0 ] && [ -z "${TIERFS_TEST_NAMESPACE:-}" ]; then
	TIERFS_TEST_NAMESPACE=1 exec unshare --mount --propagation private -- "$0" "$@"
fi
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool findmnt mount.fuse
M=$T/mnt
POOL="$T/the pool"
mkdir "$M"

# Where mount(8) looks, in this namespace: our helpers, and the one of FUSE. Nothing of the real directory is mounted
# below $T, which is removed in the end.
mkdir "$T/sbin"
cp "$(command -v mount.fuse)" "$T/sbin/mount.fuse"
ln -s "$TIERFS_BUILD"/sbin/*mount.* "$TIERFS_BUILD/bin/tierfs" "$T/sbin/"
[ "$(readlink /proc/self/ns/mnt)" != "$(readlink /proc/1/ns/mnt)" ] || fail "not in a namespace of its own"
mount -t tmpfs tierfs-test /usr/sbin || fail "cannot mount a tmpfs"
[ -z "$(ls -A /usr/sbin)" ] || fail "/usr/sbin is not the test's own"
cp -a "$T"/sbin/* /usr/sbin/
: >"$T/fstab"
mount --bind "$T/fstab" /etc/fstab # only this file, and only in this namespace

daemon_pid() { sed 's/ .*//' "$POOL/lock"; }
run_dir() { echo "/run/tierfs/$(sed -n 's/^id //p' "$POOL/pool.conf")"; }

unmounted() { ! mounted "$M"; }

# Cleanup, whatever happened.
leave()
{
	local pid
	pid=$(daemon_pid 2>/dev/null)
	umount -i "$M" 2>/dev/null || umount -il "$M" 2>/dev/null
	[ -z "$pid" ] || wait_for 20 gone "$pid"
}
cleanup_push leave

usable() # right now, without waiting
{
	mounted "$M" || fail "mount returned and nothing is mounted"
	assert_eq "$(findmnt -no FSTYPE --mountpoint "$M")" fuse.tierfs
	assert_eq "$(findmnt -no SOURCE --mountpoint "$M")" "$POOL"
	pid=$(daemon_pid)
	alive "$pid" || fail "no daemon"
	assert_ok touch "$M/touched"
}

# umount returns when all of it is over.
nothing_left()
{
	mounted "$M" && fail "still mounted"
	alive "$pid" && fail "the daemon is still there"
	assert_eq "$(cat "$POOL/lock")" '' "lock file"
	[ ! -e "$(run_dir)" ] || fail "$(run_dir) is still there"
	grep -F "$(run_dir)" /proc/self/mountinfo && fail "the arenas are still mounted"
	return 0
}

note "mount -t tierfs, umount, and again"
assert_ok mount -t tierfs "$POOL" "$M" -o dram=64M,min_idle=1
usable
head -c 48M /dev/urandom >"$T/random"
cat "$T/random" >"$M/vm0"
assert_ok umount "$M"
nothing_left
assert_ok mount -t tierfs "$POOL" "$M" -o dram=32M,noatime,nofail,_netdev -v
usable
assert_same_content "$T/random" "$M/vm0"

note "a busy mount point, a pool in use, a busy mount"
assert_status 1 mount -t tierfs "$POOL" "$M" -o dram=32M
assert_match "$out" 'mounted there already'
mkdir "$T/mnt2"
assert_status 1 mount -t tierfs "$POOL" "$T/mnt2" -o dram=32M
assert_match "$out" 'in use by another tierfs'
exec 9<"$M/vm0"
assert_status 32 umount "$M"
assert_match "$out" 'busy'
exec 9<&-
umount "$M"
nothing_left

note "fstab, with both types"
for type in tierfs fuse.tierfs; do
	# shellcheck disable=SC2028 # fstab's escape for a blank
	echo "${POOL// /\\040} $M $type dram=32M,min_idle=0.5,noauto,nofail,x-systemd.requires=/,comment=vms 0 0" >/etc/fstab
	assert_ok mount "$M"
	usable
	assert_same_content "$T/random" "$M/vm0"
	assert_ok umount "$M"
	nothing_left
done
: >/etc/fstab

note "flags of mount(8)"
assert_ok mount -f -t tierfs "$POOL" "$M" -o dram=32M
mounted "$M" && fail "mount -f has mounted"
assert_status 1 mount -t tierfs "$POOL" "$M" -o dram=32M,frobnicate
assert_match "$out" 'frobnicate'
mounted "$M" && fail "mounted with an unknown option"
assert_ok mount -s -n -t tierfs "$POOL" "$M" -o dram=32M,frobnicate
usable
assert_ok umount "$M"
assert_status 1 mount -t tierfs "$POOL" "$M" -o ro,dram=32M
assert_match "$out" 'ro'
assert_status 1 mount -t tierfs "$POOL" "$M"
assert_match "$out" 'dram'
assert_status 1 mount -r -t tierfs "$POOL" "$M" -o dram=32M
assert_match "$out" 'ro'
mounted "$M" && fail "mount -r has mounted"

note "another namespace"
unshare --mount --propagation private sleep 60 &
sleeper=$!
cleanup_push stop_process "$sleeper"
wait_for 10 test "$(readlink /proc/self/ns/mnt)" != "$(readlink "/proc/$sleeper/ns/mnt")"
assert_ok mount -N "$sleeper" -t tierfs "$POOL" "$M" -o dram=32M
mounted "$M" && fail "mounted in the wrong namespace"
pid=$(daemon_pid)
assert_match "$(cat "/proc/$sleeper/mountinfo")" 'fuse.tierfs'
assert_ok umount -N "$sleeper" "$M"
wait_for 20 gone "$pid" || fail "the daemon of the other namespace is still there"

note "by hand, as mount(8) calls it and as people do"
assert_status 1 mount.tierfs "$POOL"
assert_match "$out" 'usage'
assert_status 1 mount.tierfs -Z "$POOL" "$M"
assert_match "$out" 'unknown flag'
assert_status 1 mount.tierfs "$POOL" "$M" more
assert_ok mount.tierfs -o dram=32M "$POOL" -n "$M" -o min_idle=1
usable
assert_ok umount "$M"
nothing_left

note "the daemon without mount(8)"
assert_ok tierfs -o dram=32M "$POOL" "$M"
usable
note "umount of a daemon that was killed, and a mount over its dead mount"
tierfs_kill_all "$pid"
wait_for 10 gone "$pid"
assert_ok tierfs -o dram=32M "$POOL" "$M"
usable
assert_same_content "$T/random" "$M/vm0"
tierfs_kill_all "$pid"
wait_for 10 gone "$pid"
assert_ok umount "$M"
mounted "$M" && fail "the dead mount is still there"
assert_ok tierfs -o dram=32M "$POOL" "$M"
usable

note "SIGTERM is umount"
kill -TERM "$pid"
wait_for 20 gone "$pid" || fail "SIGTERM did not end the daemon"
nothing_left
assert_ok tierfs -o dram=32M "$POOL" "$M"
usable
exec 9<"$M/vm0"
kill -TERM "$pid"
wait_for 30 unmounted || fail "SIGTERM did not unmount"
alive "$pid" || fail "the daemon left somebody alone"
cmp - "$T/random" <&9 || fail "an open file after SIGTERM"
exec 9<&-
wait_for 20 gone "$pid" || fail "the daemon stays after the last close"
nothing_left
assert_ok tierfs -o dram=32M "$POOL" "$M"
usable
exec 9<"$M/vm0"
kill -TERM "$pid"
wait_for 30 unmounted || fail "SIGTERM did not unmount"
kill -INT "$pid"
wait_for 20 gone "$pid" || fail "a second signal did not end the daemon"
exec 9<&-
assert_ok tierfs -o dram=32M "$POOL" "$M"
usable
assert_same_content "$T/random" "$M/vm0"
assert_ok umount "$M"
nothing_left
