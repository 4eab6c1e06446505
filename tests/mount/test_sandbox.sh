#!/bin/bash
# VMMs that shut themselves in while they have attached memory: descriptors closed behind the library's back, system-call
# filters. What is cold then, and a daemon that is killed and started again, takes no word from them.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq

start()
{
	tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
}

said() # TEXT
{
	grep -q "$1" "$T/said"
}


run() # MODE [OTHER-FILE]: the program, a demotion of all it has, and a new daemon while it is shut in
{
	note "$1"
	rm -f "$T/go" "$T/said"
	mkfifo "$T/go"
	exec 8<>"$T/go"
	tierctl run "$TIERFS_BUILD/tests/prog/prog_sandbox" "$T/mnt/memory" "$@" <"$T/go" >"$T/said" 2>&1 8>&- &
	program=$!
	cleanup_push stop_process "$program"
	wait_for 20 said written || fail "$1: $(cat "$T/said")"
	echo >&8
	wait_for 20 said "shut in" || fail "$1: $(cat "$T/said")"
	tierctl demote "$T/mnt/memory" >/dev/null || fail demote
	assert_eq "$(stat_of "$T/mnt/memory" cold_bytes)" 16777216 "cold_bytes"
	tierfs_crash "$T/mnt"
	start
	echo >&8
	wait_for 30 gone "$program" || fail "$1: the program hangs"
	wait "$program" || fail "$1: exit $?: $(cat "$T/said")"
	said "all is right" || fail "$1: $(cat "$T/said")"
	exec 8>&-
	rm -f "$T/mnt/memory"
}

start
for mode in close closefrom loop replace fork filter-all; do
	run "$mode"
done
# A daemon that was started again has another mount: a file that was opened before cannot be asked. So this one has it open in time.
note "a filter of one thread, and memory that is attached under it"
exec 8<>"$T/go"
tierctl run "$TIERFS_BUILD/tests/prog/prog_sandbox" "$T/mnt/memory" filter "$T/mnt/other" <"$T/go" >"$T/said" 2>&1 8>&- &
program=$!
cleanup_push stop_process "$program"
wait_for 20 said written || fail "$(cat "$T/said")"
echo >&8
wait_for 20 said "shut in" || fail "$(cat "$T/said")"
tierctl demote "$T/mnt/memory" >/dev/null || fail demote
echo >&8
wait_for 30 gone "$program" || fail "the program hangs"
wait "$program" || fail "exit $?: $(cat "$T/said")"
said "all is right" || fail "$(cat "$T/said")"
assert_ge "$(stat_of "$T/mnt/other" resident_bytes)" 16384 "resident_bytes of what was attached under the filter"
run filter
tierfs_stop "$T/mnt"
