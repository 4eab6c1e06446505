#!/bin/bash
# timeout: 240
# Address space that nobody uses: a file of 8 TiB and a hundred of 4 GiB, all loaded, beside a program that works on four times the budget.
# It gets room as if they were not there, and the daemon's memory does not grow with them.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd

figure() { tierctl stat --json "$T/mnt" | jq ".$1"; }
daemon_kib() { awk '/^RssAnon/ { print $2 }' "/proc/$tierfs_pid/status"; }

tierfs_start "$T/pool" "$T/mnt" dram=32M,min_idle=0.2,file_max=8T
before=$(daemon_kib)
truncate -s 8T "$T/mnt/large" || fail "cannot make a file of 8 TiB"
exec 5<"$T/mnt/large"
for i in $(seq 100); do
	truncate -s 4G "$T/mnt/idle$i"
	head -c 1 "$T/mnt/idle$i" >/dev/null
done
tierctl ls "$T/mnt" >/dev/null || fail "ls"
[ "$(tierctl map --json "$T/mnt/large" | jq length)" -ge 1 ] || fail "map"
note "the daemon has $before KiB, and $(daemon_kib) KiB with $((8192 + 400)) GiB of address space"
assert_le "$(($(daemon_kib) - before))" $((16 << 10)) "KiB more"

truncate -s 128M "$T/mnt/ram"
start_process "$T/user.log" tierctl run -- python3 "$TIERFS_SRC/tests/prog/user.py" "$T/mnt/ram"
wait_for 90 gone "$started_pid" || fail "the program waits for room: $(figure demotions) demotions, $(figure waiting_faults) faults wait"
wait "$started_pid" || fail "the program: exit $? ($(tail -n 3 "$T/user.log"))"
assert_ge "$(figure demotions)" $((96 * 1024 / 16)) demotions

note "cut, and removed"
exec 5<&-
assert_ok truncate -s 16K "$T/mnt/large"
assert_ok rm "$T/mnt/large"
tierfs_stop "$T/mnt"
