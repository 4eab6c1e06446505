#!/bin/bash
# timeout: 120
# A program that maps a RAM file and has closed every descriptor: whatever becomes of the daemon, it never reads zeros for cold memory.
. "$(dirname "$0")/../lib/functions.sh"
need_root
need_fuse
need_userfaultfd
need_tool jq

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
mkfifo "$T/go"
exec 8<>"$T/go"
"$TIERFS_BUILD/tests/prog/prog_hostile" closed "$T/mnt/ram" 16 <"$T/go" >"$T/said" 2>&1 8>&- &
program=$!
cleanup_push stop_process "$program"
wait_for 30 grep -q ready "$T/said" || fail "the program does not begin: $(cat "$T/said")"

turn() # NUMBER
{
	echo go >&8
	wait_for 30 grep -q "turn $1: 0 wrong" "$T/said" || fail "turn $1: $(cat "$T/said")"
}

note "with the daemon that it knows"
turn 0

note "killed, the mount taken away, another daemon"
tierfs_crash "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
turn 1
assert_eq "$(stat_of "$T/mnt/ram" mappers)" 1 "mappers after a restart"

note "killed, and the mount goes on"
kill -KILL "$tierfs_pid"
wait "$tierfs_pid" 2>/dev/null
tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
turn 2

note "once more, touched before there is a daemon"
tierfs_crash "$T/mnt"
echo go >&8
tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
wait_for 30 grep -q "turn 3: 0 wrong" "$T/said" || fail "turn 3: $(cat "$T/said")"
wait "$program" || fail "exit $? ($(cat "$T/said"))"
no_mapper()
{
	[ "$(stat_of "$T/mnt/ram" mappers)" = 0 ]
}
wait_for 10 no_mapper || fail "the program is gone and still maps the file"

note "a RESUME of something else loads nothing"
assert_match "$("$TIERFS_BUILD/tests/prog/prog_hostile" resume "$T/mnt")" "not the arena"
tierfs_stop "$T/mnt"
no_holder()
{
	! grep -lqs tierfs-holder /proc/[0-9]*/comm || [ -z "$(find "/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")" -name holder.sock 2>/dev/null)" ]
}
wait_for 10 no_holder || fail "a holder stays"
