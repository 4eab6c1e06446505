#!/bin/bash
# timeout: 240
# A program in a memory cgroup (version 1) of 64 MiB works on 256 MiB of an attached file beside a large and empty budget: it gets what its
# group can pay for, is not killed, and every word is right. A neighbour without a limit has all it wants meanwhile.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq

own=$(sed -n 's/^[0-9]*:\([^:]*,\)*memory\(,[^:]*\)*:\(.*\)/\3/p' /proc/self/cgroup)
root=$(awk '/ - cgroup [^ ]* .*memory/ { print $5; exit }' /proc/self/mountinfo)
{ [ -n "$own" ] && [ -n "$root" ]; } || skip "needs a memory cgroup of version 1"
group=$root$own/tierfs-test.$$
if ! mkdir "$group" 2>/dev/null; then
	group=$root/tierfs-test.$$
	mkdir "$group" 2>/dev/null || skip "cannot make a memory cgroup"
fi
cleanup_push rmdir "$group"
echo $((64 << 20)) >"$group/memory.limit_in_bytes" || skip "cannot limit a memory cgroup"

figure() { stat_of "$T/mnt/$1" "$2"; }

tierfs_start "$T/pool" "$T/mnt" dram=1G,min_idle=0.2
truncate -s 256M "$T/mnt/small"
truncate -s 256M "$T/mnt/neighbour"
# shellcheck disable=SC2016 # for the other shell
start_process "$T/small.log" sh -c 'echo $$ >"$1/cgroup.procs" && exec tierctl run -- python3 "$2" "$3"' sh "$group" "$TIERFS_SRC/tests/prog/user.py" "$T/mnt/small"
small=$started_pid
assert_ok tierctl run -- python3 "$TIERFS_SRC/tests/prog/user.py" "$T/mnt/neighbour"
assert_eq "$(figure neighbour demotions)" 0 "demotions of the neighbour"
wait_for 150 gone "$small" || fail "it waits: $(tierctl stat --json "$T/mnt/small")"
wait "$small" || fail "exit $? ($(tail -n 3 "$T/small.log"); $(cat "$group/memory.oom_control"))"
assert_match "$(cat "$group/memory.oom_control")" "oom_kill 0" "the group"
assert_ge "$(figure small demotions)" $((128 << 6)) "demotions"
note "the group had at most $(cat "$group/memory.max_usage_in_bytes") bytes, and failed to charge $(cat "$group/memory.failcnt") times"
assert_eq "$(stat_of "$T/mnt" errors)" 0 errors
tierfs_stop "$T/mnt"
