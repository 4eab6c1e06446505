#!/bin/bash
# What a directory may have of the store, and write to it in a day: direct writes beyond are refused, a guest's memory stays in DRAM and right,
# and who is beside it does not notice. Over a restart what was stored and written is known.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq python3
user=$TIERFS_SRC/tests/prog/user.py

usage() # PATH KEY
{
	tierctl get "$1" | sed -n "s/^$2=//p"
}
dd_random() # FILE MIB SEEK-MIB
{
	dd if=/dev/urandom of="$1" bs=1M count="$2" seek="$3" oflag=direct conv=notrunc status=none
}

refused() # COMMAND...: for want of room
{
	"$@" 2>"$T/errors" && fail "not refused: $*"
	assert_match "$(cat "$T/errors")" "Disk quota exceeded"
}

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.1
tenant=$T/mnt/tenant
mkdir "$tenant"
truncate -s 48M "$tenant/vm" "$T/mnt/free"

note "a direct write beyond disk.max"
tierctl set "$tenant" disk.max=8M >/dev/null || fail "set"
dd_random "$tenant/vm" 6 0 || fail "a direct write within the limit"
cp --reflink=never "$tenant/vm" "$T/before"
refused dd_random "$tenant/vm" 4 6
refused dd_random "$tenant/new" 12 0
assert_le "$(stat -c %s "$tenant/new")" $((2 << 20)) "bytes of a file of which some was written"
rm "$tenant/new"
cmp -n $((6 << 20)) "$tenant/vm" "$T/before" || fail "what was there before is another"
dd_random "$T/mnt/free" 16 0 || fail "a direct write of another file"
used=$(usage "$tenant" disk_used_bytes)
assert_ge "$used" $((6 << 20)) disk_used_bytes
assert_eq "$((used + $(usage "$tenant" disk_left_bytes)))" $((8 << 20)) "bytes used and left"
assert_eq "$(stat_of "$tenant/vm" disk_max_bytes)" $((8 << 20)) disk_max_bytes
assert_eq "$(stat_of "$T/mnt/free" disk_left_bytes)" null "disk_left_bytes of a file without a limit"
one_line ".*disk.max: left are .* for the new file, any number of bytes for this one; or the uid_space of its owner is used up" tierctl clone "$T/mnt/free" "$tenant/clone"

note "a guest that has more than that, and who is beside it"
fallocate -p -o 0 -l 48M "$tenant/vm"
tierctl set "$tenant" disk.max=1M dram.max=60M >/dev/null || fail "set"
start_process "$T/user.log" tierctl run -- python3 "$user" "$T/mnt/free"
beside_pid=$started_pid
start_process "$T/guest.log" tierctl run -- python3 "$user" "$tenant/vm"
wait "$started_pid" || fail "a guest whose memory finds no room in the store: exit $? ($(tail -n 3 "$T/guest.log"))"
assert_le "$(usage "$tenant" disk_used_bytes)" $((1 << 20)) "bytes stored of the guest"
fallocate -p -o 0 -l 48M "$tenant/vm"
printf 'kept in DRAM' | dd of="$tenant/vm" bs=1M seek=20 conv=notrunc status=none || fail "a buffered write"
dd if=/dev/urandom of="$T/random" bs=1M count=4 status=none
dd if="$T/random" of="$tenant/vm" bs=1M seek=24 conv=notrunc status=none || fail "buffered writes"
wait "$beside_pid" || fail "beside it: exit $? ($(tail -n 3 "$T/user.log"))"
tierctl demote "$tenant/vm" >/dev/null || fail "demote"
assert_le "$(usage "$tenant" disk_used_bytes)" $((1 << 20)) "bytes stored"
assert_ge "$(stat_of "$tenant/vm" resident_bytes)" $((3 << 20)) "bytes that stayed in DRAM"
cmp -n $((4 << 20)) -i 0:$((24 << 20)) "$T/random" "$tenant/vm" || fail "a byte of what stayed is wrong"
sync "$tenant/vm" 2>"$T/errors" && fail "an fsync for which there is no room"
assert_match "$(cat "$T/errors")" "No space left on device"
fallocate -p -o 24M -l 3584K "$tenant/vm"
tierctl demote "$tenant/vm" >/dev/null || fail "demote"
assert_le "$(stat_of "$tenant/vm" resident_bytes)" $((64 << 10)) "bytes in DRAM when there was room again"

assert_le "$(grep -c "has come to its disk.max" "$T/tierfs.log")" 4 "times that it was said"
note "a day"
tierctl set "$tenant" disk.max=none cold.write_day=2M >/dev/null || fail "set"
assert_eq "$(usage "$tenant" cold_write_day_used_bytes)" 0 "bytes written since it was set"
dd if="$T/random" of="$tenant/vm" bs=1M seek=24 conv=notrunc status=none || fail "buffered writes"
tierctl demote "$tenant/vm" >/dev/null || fail "demote"
used=$(usage "$tenant" cold_write_day_used_bytes)
assert_le "$used" $((2 << 20)) "bytes written in a day"
assert_ge "$used" $((15 << 17)) "bytes written in a day"
assert_ge "$(stat_of "$tenant/vm" resident_bytes)" $((3 << 19)) "bytes that stayed in DRAM"
dd_random "$tenant/vm" 2 40 || fail "a direct write is not refused for a day"
used=$(usage "$tenant" cold_write_day_used_bytes)
assert_ge "$used" $((3 << 20)) "bytes written in a day, with direct writes"
assert_ge "$(stat_of "$tenant/vm" cold_write_day_next_free_ns)" $((23 * 3600 * 1000000000)) "time until some is left again"
cmp -n $((4 << 20)) -i 0:$((24 << 20)) "$T/random" "$tenant/vm" || fail "a byte of what stayed is wrong"

note "over a restart"
stored=$(stat_of "$tenant/vm" stored_bytes)
tierfs_stop "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.1
assert_ge "$(usage "$tenant" cold_write_day_used_bytes)" "$used" "bytes written in a day"
tierctl set "$tenant" disk.max=32M >/dev/null || fail "set"
assert_ge "$(usage "$tenant" disk_used_bytes)" "$stored" "bytes stored, of a file that nobody has opened"
cmp -n $((4 << 20)) -i 0:$((24 << 20)) "$T/random" "$tenant/vm" || fail "a byte is wrong after the restart"

note "defaults of new files, and the largest size of one"
tierfs_stop "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.1,dram.max=32M,disk.max=2M,file_max=64M
truncate -s 16M "$T/mnt/new" "$tenant/new"
assert_eq "$(tierctl get "$T/mnt/new" | grep -F . | tr '\n' ' ' | grep -o 'dram.max=.*')" "dram.max=32M (default) disk.max=2M (default) " "get of a new file"
assert_eq "$(tierctl get "$T/mnt/new" disk.max)" disk.max=2M "get by name"
assert_eq "$(tierctl get "$T/mnt" | grep '^new' | tr '\n' ' ')" "new.dram.max=32M new.disk.max=2M " "get of the mount"
assert_eq "$(tierctl get "$tenant/new" | grep -c '^disk.max=')" 0 "defaults where a directory says otherwise"
assert_eq "$(tierctl get "$tenant/vm" | grep -c default)" 0 "defaults of a file that was there"
refused dd_random "$T/mnt/new" 4 0
tierctl set "$T/mnt/new" disk.max=8M >/dev/null || fail "set"
assert_eq "$(tierctl get "$T/mnt/new" | grep '^disk.max=')" disk.max=8M "what was set is no default"
dd_random "$T/mnt/new" 4 0 || fail "a direct write after more was allowed"
truncate -s 65M "$T/mnt/new" 2>"$T/errors" && fail "a file grew beyond file_max"
assert_match "$(cat "$T/errors")" "File too large"

note "who moves out of a directory keeps a limit"
truncate -s 16M "$tenant/moves"
assert_eq "$(tierctl get "$tenant/moves" | grep -c '^disk.max=')" 0 "what holds for it where a directory says otherwise"
mv "$tenant/moves" "$T/mnt/moved" || fail "mv"
assert_match "$(tierctl get "$T/mnt/moved")" "disk.max=2M .default."
refused dd_random "$T/mnt/moved" 4 0
mkdir "$tenant/sub"
truncate -s 16M "$tenant/sub/vm"
mv "$tenant/sub" "$T/mnt/sub" || fail "mv of a directory, which copies"
assert_match "$(tierctl get "$T/mnt/sub/vm")" "disk.max=2M .default."

note "what a user may own"
as_nobody=(setpriv --reuid nobody --regid nogroup --clear-groups)
if "${as_nobody[@]}" true 2>/dev/null; then
	tierfs_stop "$T/mnt"
	tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.1,allow_other,uid_files=3,uid_space=32M
	assert_eq "$(tierctl get "$T/mnt" uid_files uid_space file_max | tr '\n' ' ')" "uid_files=3 uid_space=32M file_max=4T " "bounds"
	chmod 755 "$T"
	mkdir -m 777 "$T/mnt/all"
	"${as_nobody[@]}" truncate -s 20M "$T/mnt/all/a" || fail "a first file"
	"${as_nobody[@]}" truncate -s 8M "$T/mnt/all/b" || fail "a second file"
	refused "${as_nobody[@]}" truncate -s 12M "$T/mnt/all/a" -s 25M
	assert_eq "$(stat -c %s "$T/mnt/all/a")" $((20 << 20)) "the size that it had"
	"${as_nobody[@]}" truncate -s 24M "$T/mnt/all/a" || fail "as large as he may have"
	"${as_nobody[@]}" mkdir "$T/mnt/all/c" || fail "a third inode"
	refused "${as_nobody[@]}" mkdir "$T/mnt/all/d"
	refused "${as_nobody[@]}" touch "$T/mnt/all/d"
	truncate -s 100M "$T/mnt/all/d" || fail "root has no bounds"
	"${as_nobody[@]}" rm "$T/mnt/all/b" || fail "rm"
	"${as_nobody[@]}" truncate -s 8M "$T/mnt/all/e" || fail "in place of one that is gone"
	assert_match "$(cat "$T/tierfs.log")" "may make no more files: uid_files allows 3, none is left"
fi
