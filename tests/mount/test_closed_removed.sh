#!/bin/bash
# timeout: 180
# A program maps a file, closes every descriptor, and the file loses its name. Daemons are killed and come back: what it maps stays what it
# was, and when it ends nothing of the file is left.
. "$(dirname "$0")/../lib/functions.sh"
need_root
need_fuse
need_userfaultfd
need_tool jq

nothing_held()
{
	[ "$(stat_of "$T/mnt" resident_bytes)$(stat_of "$T/mnt" cold_bytes)" = 00 ]
}

turn() # NUMBER
{
	echo go >&8
	wait_for 30 grep -q "turn $1: 0 wrong" "$T/said" || fail "turn $1: $(cat "$T/said")"
}

# A quarter of it is touched for the first time with each daemon.
outlives()
{
	tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
	"$TIERFS_BUILD/tests/prog/prog_hostile" closed "$T/mnt/ram" 16 <"$T/go" >"$T/said" 2>&1 8>&- &
	program=$!
	cleanup_push stop_process "$program"
	wait_for 30 grep -q ready "$T/said" || fail "the program does not begin: $(cat "$T/said")"
	rm "$T/mnt/ram"
	turn 0
	for round in 1 2 3; do
		tierfs_crash "$T/mnt"
		tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
		turn "$round"
	done
	wait "$program" || fail "exit $? ($(cat "$T/said"))"
	wait_for 20 nothing_held || fail "memory of a file that is gone is still held: $(tierctl stat "$T/mnt" --json)"
	tierfs_stop "$T/mnt"
	rm "$T/said"
}

mkfifo "$T/go"
exec 8<>"$T/go"
note "as the kernel can"
outlives
note "with a descriptor of the arena"
export TIERFS_PASSTHROUGH=no
outlives
