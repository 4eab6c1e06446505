#!/bin/bash
# timeout: 120
# Stored blocks are damaged on the disk: who touches one gets SIGBUS, who reads one EIO, at once; the daemon and the rest go on.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
truncate -s 8M "$T/mnt/ram"
mkfifo "$T/fifo"
tierctl run -- "$TIERFS_BUILD/tests/prog/prog_rmw" --state "$T/state" --size 8M --pattern 0 --serve "$T/mnt/ram" <"$T/fifo" \
	>"$T/serve.out" 2>&1 &
program=$!
cleanup_push stop_process "$program"
exec 9>"$T/fifo"
echo "run 2" >&9
resident() { [ "$(stat_of "$T/mnt/ram" resident_bytes)" -eq $((8 << 20)) ]; }
wait_for 20 resident || fail "the program does not fill its memory"
cold()
{
	tierctl demote "$T/mnt/ram" >/dev/null && [ "$(stat_of "$T/mnt/ram" cold_bytes)" -eq $((8 << 20)) ]
}
wait_for 30 cold || fail "the memory of an idle program is not demoted"

note "values overwritten on the disk"
damage_values "$T/pool"
echo verify >&9
gone() { ! kill -0 "$program" 2>/dev/null; }
wait_for 15 gone || fail "who touches a damaged block hangs"
wait "$program" && fail "who touches a damaged block goes on: $(tail -n 2 "$T/serve.out")"
if dd if="$T/mnt/ram" of=/dev/null bs=1M iflag=direct status=none 2>"$T/dd.err"; then
	fail "a damaged file reads without an error"
fi
assert_match "$(cat "$T/dd.err")" 'Input/output error' "what a reader is told"
assert_ge "$(stat_of "$T/mnt/ram" errors)" 1 errors
assert_le "$(stat_of "$T/mnt/ram" fault_count)" 20000 faults

note "the rest goes on"
echo fresh >"$T/fresh"
truncate -s 4K "$T/fresh"
dd if="$T/fresh" of="$T/mnt/other" bs=4K iflag=fullblock status=none
assert_ok cmp "$T/fresh" "$T/mnt/other"
assert_ok rm "$T/mnt/ram"
tierfs_stop "$T/mnt"
