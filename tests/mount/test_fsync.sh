#!/bin/bash
# fsync means durable: what was there when it returned is there after the daemon was killed and the memory is gone, written
# in every way, and it stays in DRAM meanwhile. What was never synced is lost, as before.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool python3
M=$T/mnt
options=dram=64M,block=16K,min_idle=1000

# The memory goes; the disk stays as it is.
lose_power()
{
	tierfs_crash "$M"
	umount "$run_dir/arena" || fail "cannot unmount the arenas"
	tierfs_start "$T/pool" "$M" "$options"
}

mapped() # FILE COMMAND...: writes through a mapping, then fsync
{
	local file=$1
	shift
	"$@" python3 -c '
import mmap, os, sys
data = open(sys.argv[2], "rb").read()
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(fd, len(data))
with mmap.mmap(fd, len(data)) as memory:
    memory[:] = data
    os.fsync(fd)
' "$file" "$T/data"
}

tierfs_start "$T/pool" "$M" "$options"
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")
head -c 5000017 /dev/urandom >"$T/data"

note "written and mapped, in every way"
dd if="$T/data" of="$M/dd" bs=64K conv=fsync status=none
cat "$T/data" >"$M/sync"
sync "$M/sync"
mapped "$M/plain"
mapped "$M/attached" tierctl run
cat "$T/data" >"$M/never"
assert_ge "$(stat_of "$M/dd" resident_bytes)" 5000000 "fsync gave up no DRAM"
lose_power
for name in dd sync plain attached; do
	cmp "$T/data" "$M/$name" || fail "$name is not what was synced"
	assert_match "$(tierctl ls "$M/$name")" 'fell back'
	assert_eq "$(stat_of "$M/$name" fell_back)" true "$name, figures"
done
assert_eq "$(stat_of "$M" fell_back_files)" 4 "files that fell back"
assert_eq "$(stat_of "$M" lost_files)" 1 "files that are lost"
assert_status 1 cat "$M/never"
assert_match "$(tierctl ls "$M/never")" 'lost'

note "what was changed later is old or new, and the rest is whole"
sync "$M/dd"
assert_match "$(tierctl ls "$M/dd")" ' ok'
assert_eq "$(stat_of "$M/dd" fell_back)" false "after the next fsync"
head -c 100000 /dev/zero | tr '\0' x | dd of="$M/dd" bs=1000 conv=notrunc status=none
fallocate -p -o 204800 -l 4096 "$M/dd"
sync "$M/sync"
lose_power
cmp <(tail -c +208897 "$T/data") <(tail -c +208897 "$M/dd") || fail "what was synced and not changed differs"
cmp <(head -c 204800 "$T/data" | tail -c +114689) <(head -c 204800 "$M/dd" | tail -c +114689) || fail "beside the discard"

note "a clean end"
tierfs_stop "$M"
tierfs_start "$T/pool" "$M" "$options"
cmp "$T/data" "$M/sync" || fail "after a clean end"
tierfs_stop "$M"
