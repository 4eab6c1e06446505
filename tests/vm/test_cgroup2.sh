#!/bin/bash
# timeout: 240
# tierctl run --plain with cgroups of version 2, and tierfs on Debian's kernel: in a guest with nothing but tierfs and the load, a
# program whose memory is held down by memory.high works on twice as much, and every word is right.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/lib.sh"

case ${TIERFS_MODE:-debug} in
asan | tsan) skip "what is instrumented is too slow in a guest" ;;
esac
need_tool qemu-system-x86_64 busybox dpkg-deb apt-get strip
vm_find_kernel

root=$T/root
mkdir -p "$root"/{proc,sys,dev,run,tmp,pool,mnt,etc}
vm_add_program "$root" "$TIERFS_BUILD/bin/tierfs" "$TIERFS_BUILD/bin/tierctl" "$TIERFS_BUILD/tests/prog/prog_rmw" ||
	fail "cannot copy the programs"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$vm_kernel/fuse.ko" "$root/"
for name in sh mount umount cat grep sed sleep insmod poweroff; do
	ln -s busybox "$root/bin/$name"
done
cat >"$root/init" <<'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /pool
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
insmod /fuse.ko
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
exec 2>&1

step() # NAME COMMAND...
{
	local name=$1
	shift
	"$@" || { echo "GUEST: BAD $name: exit $?"; poweroff -f; }
	echo "GUEST: $name"
}

watch() # while the load runs: what its group has
{
	while sleep 0.2; do
		for dir in /sys/fs/cgroup/tierctl-*; do
			[ -e "$dir/memory.high" ] || continue
			echo "$(cat $dir/memory.high) $(cat $dir/memory.current) $(sed -n 's/^high //p' $dir/memory.events)" >>/tmp/group
		done
	done
}

echo "GUEST: Linux $(sed 's/^Linux version \([^ ]*\).*/\1/' /proc/version)"
tierfs -f -o dram=512M,min_idle=1 /pool/pool /mnt &
daemon=$!
until grep -q ' /mnt fuse.tierfs ' /proc/mounts; do sleep 0.1; done
step mounted tierctl list
watch &
step load tierctl run --plain --memory 48M -- prog_rmw --state /tmp/state --size 96M --threads 2 --seconds 10 /mnt/ram
echo "GUEST: groups left: $(ls -d /sys/fs/cgroup/tierctl-* 2>/dev/null)."
sed 's/^/GUEST: group /' /tmp/group
step direct prog_rmw --state /tmp/state --verify-only --direct /mnt/ram
step map prog_rmw --state /tmp/state --verify-only --map /mnt/ram
tierctl stat /mnt/ram --json | grep -E '"(errors|mapping|resident_bytes|cached_bytes)"' | sed 's/^/GUEST: stat /'
step unmounted umount /mnt
wait $daemon
echo "GUEST: daemon ended with $?"
tierfs -f -o dram=512M /pool/pool /mnt &
until grep -q ' /mnt fuse.tierfs ' /proc/mounts; do sleep 0.1; done
step remounted prog_rmw --state /tmp/state --verify-only --direct /mnt/ram
echo "GUEST: OK"
poweroff -f
INIT
chmod 755 "$root/init"
ln -s busybox "$root/bin/ls"
vm_pack "$root" "$T/initrd.gz" || fail "cannot make the initramfs"

vm_boot 1G ""
vm_wait 'GUEST: Linux' 60
note "$(vm_last 'GUEST: Linux')"
vm_wait 'GUEST: OK' 180
vm_finish 20

tr -d '\r' <"$vm_console" | grep -aE '^(tierfs|prog_rmw|OK:|GUEST:)' | grep -av '^GUEST: group '
group=$T/group
# The last look may come when the group is on its way out, and see a part of it.
tr -d '\r' <"$vm_console" | sed -n 's/^GUEST: group //p' | awk 'NF == 3' >"$group"
assert_ge "$(wc -l <"$group")" 10 "looks at the group"
assert_eq "$(cut -d' ' -f1 "$group" | sort -u)" $((48 << 20)) memory.high
peak=$(cut -d' ' -f2 "$group" | sort -n | tail -n 1)
note "memory.current at most $peak, above memory.high $(tail -n 1 "$group" | cut -d' ' -f3) times"
assert_ge "$(tail -n 1 "$group" | cut -d' ' -f3)" 10 "times that the group was held down"
assert_le "$peak" $((72 << 20)) "most memory of the group"
assert_match "$(vm_last 'GUEST: groups left')" "left: \.$" "the group"
assert_match "$(vm_last 'GUEST: daemon ended')" "with 0$" "the daemon"
assert_match "$(vm_last 'GUEST: stat .*errors')" ": 0,?$" "errors"
