#!/bin/bash
# timeout: 300
# Limits of what goes to the store and comes from it: they are kept, they change no word, and who has none does not notice. And the audit:
# what the daemon says that it read and wrote, by use, is what its disk says.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq mkfs.ext4 losetup python3
user=$TIERFS_SRC/tests/prog/user.py

truncate -s 1G "$T/disk.img"
mkfs.ext4 -q -m 0 -O ^has_journal -E lazy_itable_init=0,lazy_journal_init=0 "$T/disk.img" || fail mkfs.ext4
mkdir "$T/disk"
mount -o loop,noatime "$T/disk.img" "$T/disk" 2>"$T/errors" || skip "no loop device can be mounted: $(cat "$T/errors")"
cleanup_push unmount "$T/disk"
device=$(losetup -j "$T/disk.img" -O NAME -n | head -n 1)
[ -r "/sys/block/${device##*/}/stat" ] || skip "the loop device has no counts"
tierfs_start "$T/disk/pool" "$T/mnt" dram=64M,min_idle=0.1
mkdir "$T/mnt/slow"
truncate -s 48M "$T/mnt/slow/vm" "$T/mnt/free"

device_bytes() # read|written
{
	local read written
	read -r _ _ read _ _ _ written _ <"/sys/block/${device##*/}/stat"
	[ "$1" = read ] && echo $((read * 512)) || echo $((written * 512))
}
told() # JQ-EXPRESSION of the mount's store
{
	tierctl stat "$T/mnt" --json | jq ".store | $1"
}
waits() { stat_of "$1" limit_waits; }

note "the audit: reads"
dd if=/dev/urandom of="$T/mnt/slow/vm" bs=1M count=48 oflag=direct conv=notrunc status=none || fail "direct write"
dd if=/dev/urandom of="$T/mnt/free" bs=1M count=48 oflag=direct conv=notrunc status=none || fail "direct write"
sync "$T/mnt"
cp --reflink=never "$T/mnt/slow/vm" "$T/slow.copy"
before=$(device_bytes read) before_told=$(told '[.traffic[].read_bytes] | add')
dd if="$T/mnt/slow/vm" of=/dev/null bs=1M iflag=direct status=none || fail "direct read"
read=$(($(device_bytes read) - before)) read_told=$(($(told '[.traffic[].read_bytes] | add') - before_told))
note "the disk read $read bytes, the daemon says $read_told"
assert_ge "$read_told" $((48 << 20)) "bytes of direct reads, which cannot be compressed"
assert_le $((read > read_told ? read - read_told : read_told - read)) $((read / 100)) "bytes by which they differ"

note "the audit: writes, by mappings that do not fit"
sync -f "$T/disk"
before=$(device_bytes written) before_told=$(told '([.traffic[].written_bytes] | add) + .index_written_bytes')
assert_ok tierctl run -- python3 "$user" "$T/mnt/free"
tierctl demote "$T/mnt/free" >/dev/null || fail "demote"
sync -f "$T/disk"
written=$(($(device_bytes written) - before))
written_told=$(($(told '([.traffic[].written_bytes] | add) + .index_written_bytes') - before_told))
note "the disk wrote $written bytes, the daemon says $written_told"
# What the filesystem of the disk writes for itself is not the daemon's: bitmaps, inodes, directories.
assert_le "$written_told" "$written" "bytes that the daemon says it wrote"
assert_le $((written - written_told)) $((written / 20 + (1 << 20))) "bytes by which they differ"
assert_ge "$(told .traffic.demotion.written_bytes)" 1 "bytes of demotions"
assert_eq "$(told .traffic.guest.written_bytes)" 0 "bytes that faults wrote"

note "the sum over the files"
for use in guest ahead direct demotion; do
	sum=$(tierctl ls "$T/mnt" --json | jq "[.files[].traffic.$use.reads] | add")
	assert_eq "$(tierctl stat "$T/mnt" --json | jq ".traffic.$use.reads")" "$sum" "values that were read: $use"
done

note "a limit of a directory: who reads its file waits, who reads another one does not"
tierctl set "$T/mnt/slow" cold.read_iops=200 cold.write_bps=1M >/dev/null || fail "set"
assert_eq "$(tierctl get "$T/mnt/slow/vm" cold.read_iops cold.write_bps | tr '\n' ' ')" "cold.read_iops=200 cold.write_bps=1M "
assert_eq "$(stat_of "$T/mnt/slow/vm" cold_read_iops)" 200 cold_read_iops
assert_eq "$(stat_of "$T/mnt/free" cold_read_iops)" null cold_read_iops
start_process "$T/dd.log" dd if="$T/mnt/slow/vm" of="$T/slow.read" bs=1M iflag=direct status=none
slow_pid=$started_pid
some_wait() { [ "$(waits "$T/mnt/slow/vm")" -gt 0 ]; }
wait_for 30 some_wait || fail "nobody waited for the limit"
dd if="$T/mnt/free" of=/dev/null bs=1M iflag=direct status=none || fail "direct read of another file"
alive "$slow_pid" || fail "who is limited was faster than who is not"
wait "$slow_pid" || fail "a read that is limited failed: $(cat "$T/dd.log")"
assert_same_content "$T/slow.read" "$T/slow.copy"
assert_eq "$(waits "$T/mnt/free")" 0 "waits of the other file"

note "faults that wait, and a reader beside them"
start_process "$T/user.log" tierctl run -- python3 "$user" "$T/mnt/slow/vm"
user_pid=$started_pid
more_wait() { [ "$(stat_of "$T/mnt/slow/vm" limit_waits)" -gt "$1" ]; }
wait_for 60 more_wait "$(waits "$T/mnt/slow/vm")" || fail "no fault waited"
dd if="$T/mnt/free" of=/dev/null bs=1M iflag=direct status=none || fail "direct read of another file"
tierctl set "$T/mnt/slow" cold.read_iops=none cold.write_bps=none >/dev/null || fail "take it back"
wait "$user_pid" || fail "exit $? ($(tail -n 3 "$T/user.log"))"

note "who is limited and goes, and a limit over the end of a mount"
tierctl demote "$T/mnt/slow/vm" >/dev/null || fail "demote"
tierctl set "$T/mnt/slow" cold.read_iops=10 cold.write_bps=1M >/dev/null || fail "set"
start_process "$T/dd.log" dd if="$T/mnt/slow/vm" of=/dev/null bs=1M iflag=direct status=none
wait_for 30 more_wait "$(waits "$T/mnt/slow/vm")" || fail "nobody waited for the limit"
kill -KILL "$started_pid"
wait "$started_pid"
tierfs_stop "$T/mnt"
tierfs_start "$T/disk/pool" "$T/mnt" dram=64M,min_idle=0.1
assert_eq "$(tierctl get "$T/mnt/slow" cold.read_iops)" cold.read_iops=10 "the limit after a restart"
tierctl set "$T/mnt/slow" cold.read_iops=none cold.write_bps=none >/dev/null || fail "take it back"
python3 - "$T/mnt/slow/vm" <<'PY' || fail "a word is wrong after the restart"
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
for page in range(0, 48 << 20, 4096):
    assert os.pread(fd, 16, page) == b"%016d" % page, page
PY
