#!/bin/bash
# timeout: 300
# Huge pages while the budget is far. When it comes near they are split, and a verified load over the budget goes on: no wrong word,
# also with O_DIRECT, demotion on request, a daemon that is killed while pages are huge, and discards of parts of them.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
! grep -qF "[deny]" /sys/kernel/mm/transparent_hugepage/shmem_enabled ||
	skip "huge pages of shared memory are denied on this host"
seconds=$(load_or_long 8 60)
options=dram=1G,min_idle=1

# Bytes that the load maps by entries of 2 MiB. Its process is a child of the one that was started, or that itself.
mapped_huge()
{
	local pid
	# shellcheck disable=SC2154 # set by load_start
	for pid in "$load_pid" $(cat "/proc/$load_pid/task/$load_pid/children"); do
		awk '/ShmemPmdMapped/ { sum += $2 } END { print sum * 1024 }' "/proc/$pid/smaps"
	done | sort -n | tail -n 1
}

is_mapped_huge() # BYTES
{
	[ "$(mapped_huge)" -ge "$1" ]
}

# The load is not through with it when most is mapped.
is_resident() # BYTES
{
	[ "$(stat_of "$T/mnt/ram" resident_bytes)" -eq "$1" ]
}

is_within() # BYTES
{
	[ "$(stat_of "$T/mnt/ram" resident_bytes)" -le "$1" ]
}

tierfs_start "$T/pool" "$T/mnt" "$options"
grep -q "cannot be seen" "$T/tierfs.log" && skip "huge pages need a host that shows pins"

note "fresh memory"
load_start "$T/mnt/ram" --size 256M --threads 2 --seconds 100000 --rate 5000 --huge
assert_ok wait_for 20 is_mapped_huge $((200 << 20))
note "$(mapped_huge) bytes are mapped huge, $(stat_of "$T/mnt/ram" huge_bytes) are huge"
assert_ge "$(stat_of "$T/mnt/ram" huge_bytes)" $((200 << 20)) huge_bytes
assert_ok wait_for 20 is_resident $((256 << 20))

note "the daemon is killed"
tierfs_crash "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" "$options"
load_progresses 30
assert_ge "$(stat_of "$T/mnt/ram" huge_bytes)" $((200 << 20)) "huge_bytes after a restart"

note "O_DIRECT"
"$PROG_RMW" --state "$T/state" --direct-read --seconds 2 --json "$T/mnt/ram" >"$T/reader.json" || fail "wrong by O_DIRECT"

note "demotion on request"
assert_ok tierctl demote "$T/mnt/ram"
load_progresses 30
assert_eq "$(stat_of "$T/mnt/ram" huge_bytes)" 0 "huge_bytes after a demotion"

note "the budget becomes small"
assert_ok tierctl set "$T/mnt" dram=64M
assert_ok wait_for 60 is_within $((64 << 20))
load_sample_start "$T/mnt/ram" "$T/samples"
sleep "$seconds"
load_progresses 30
load_sample_stop
assert_le "$(load_sample_max "$T/samples" resident_bytes)" $((72 << 20)) resident_bytes
assert_eq "$(mapped_huge)" 0 "bytes mapped huge"
kill -TERM "$load_pid"
load_finish 120
assert_eq "$(stat_of "$T/mnt/ram" errors)" 0 errors
load_verify "$T/mnt/ram" --direct
rm "$T/mnt/ram" "$T/state"

note "the budget becomes small, at once"
assert_ok tierctl set "$T/mnt" dram=1G
load_start "$T/mnt/ram" --size 256M --threads 2 --seconds 100000 --rate 5000 --huge
assert_ok wait_for 20 is_mapped_huge $((200 << 20))
assert_ok tierctl set "$T/mnt" dram=64M
assert_ok wait_for 60 is_within $((128 << 20))
load_progresses 30
tierfs_crash "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
load_progresses 60
kill -TERM "$load_pid"
load_finish 120
load_verify "$T/mnt/ram" --direct
assert_eq "$(stat_of "$T/mnt/ram" errors)" 0 errors
tierfs_stop "$T/mnt"
