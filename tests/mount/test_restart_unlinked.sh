#!/bin/bash
# timeout: 180
# A process maps a file that has no name any more, as QEMU does with a directory for its memory. The daemon is killed and
# started again: the process goes on, and when it ends, nothing of the file is left.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
M=$T/mnt

nothing_held()
{
	[ "$(stat_of "$M" resident_bytes)$(stat_of "$M" cold_bytes)" = 00 ]
}

tierfs_start "$T/pool" "$M" dram=32M,min_idle=1
load_start "$M/ram" --size 96M --seconds 12
wait_for 10 load_ops_beyond 1000 || fail "the load does not begin"
rm "$M/ram"
load_progresses 30
for round in 1 2; do
	note "kill $round"
	tierfs_crash "$M"
	tierfs_start "$T/pool" "$M" dram=32M,min_idle=1
	load_progresses 60
	assert_eq "$(ls -A "$M")" '' "names after restart $round"
	assert_ge "$(stat_of "$M" resident_bytes)" 1 "resident_bytes"
done
load_finish 60
wait_for 20 nothing_held ||
	fail "memory of a file that is gone is still held: $(tierctl stat "$M" --json)"
tierfs_stop "$M"
