#!/bin/bash
# timeout: 180
# A fault that waits is seen: how many do, for what and for how long, of the file and of the mount; and the log says it once. A program locks
# more memory than its file may have, past libtierfs, so that nothing can make room for it until it may have more.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq
[ "$(uname -m)" = x86_64 ] || skip "makes mlock(2) of x86_64 alone"

is_at_least() { [ "$(stat_of "$1" "$2")" -ge "$3" ]; }
is() { [ "$(stat_of "$1" "$2")" = "$3" ]; }
told() { grep -c "a fault waits since .* a limit of its own" "$T/tierfs.log"; }
logs() { grep -q "$1" "$T/tierfs.log"; }

tierfs_start "$T/pool" "$T/mnt" dram=128M,min_idle=0.2
mkdir "$T/mnt/acme"
truncate -s 32M "$T/mnt/acme/locked" "$T/mnt/acme/calm" "$T/mnt/other"
tierctl set "$T/mnt/acme" dram.max=16M >/dev/null || fail "set dram.max"
for key in waiting_faults waiting_for_turn waiting_for_room waiting_for_limit waiting_for_store waiting_for_process longest_wait_ns; do
	is "$T/mnt" "$key" 0 || fail "$key of an idle mount"
	is "$T/mnt/other" "$key" 0 || fail "$key of an idle file"
done

note "a fault waits for the limit of its tenant"
start_process "$T/lock.log" tierctl run -- python3 "$TIERFS_SRC/tests/prog/lock.py" "$T/mnt/acme/locked" 600
locker=$started_pid
wait_for 30 is_at_least "$T/mnt/acme/locked" waiting_for_limit 1 || fail "no fault waits: $(tierctl stat --json "$T/mnt/acme/locked")"
assert_ge "$(stat_of "$T/mnt" waiting_for_limit)" 1 "waiting_for_limit of the mount"
assert_ge "$(stat_of "$T/mnt" waiting_faults)" 1 "waiting_faults of the mount"
assert_eq "$(stat_of "$T/mnt/acme/locked" waiting_for_room)" 0 "waiting_for_room"
assert_eq "$(stat_of "$T/mnt/other" waiting_faults)" 0 "waiting_faults of another file"
wait_for 30 is_at_least "$T/mnt/acme/locked" longest_wait_ns 3000000000 || fail "the wait does not grow"
assert_ge "$(stat_of "$T/mnt" longest_wait_ns)" 3000000000 "longest_wait_ns of the mount"
wait_for 30 logs "a fault waits since .* for a limit of its own" || fail "the log says nothing"
tierctl stat "$T/mnt/acme/locked" | grep -q longest_wait || fail "people are not shown it"

note "others go on, and the log says it once"
assert_ok tierctl run -- python3 "$TIERFS_SRC/tests/prog/user.py" "$T/mnt/other"
before=$(stat_of "$T/mnt/acme/locked" longest_wait_ns)
wait_for 30 is_at_least "$T/mnt/acme/locked" longest_wait_ns $((before + 3000000000)) || fail "the wait does not grow"
assert_eq "$(told)" 1 "lines of the log"

note "it is over when the limit is"
tierctl set "$T/mnt/acme" dram.max=none >/dev/null || fail "take it back"
wait_for 60 grep -q "locked 0" "$T/lock.log" || fail "it is not locked: $(tierctl stat --json "$T/mnt/acme/locked")"
wait_for 30 is "$T/mnt" waiting_faults 0 || fail "a fault waits for ever"
assert_eq "$(stat_of "$T/mnt" longest_wait_ns)" 0 longest_wait_ns
wait_for 30 logs "no fault waits for long any more" || fail "the log does not say that it is over"
kill -KILL "$locker"
wait_for 30 gone "$locker" || fail "the program stays"
tierfs_stop "$T/mnt"
