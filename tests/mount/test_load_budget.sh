#!/bin/bash
# timeout: 240
# Two threads, verified random read-modify-writes over 256 MiB in a budget of 64 MiB: no wrong word, the budget is kept, and
# blocks really go out and come back.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
seconds=$(load_or_long 10 60)
moved=$(load_or_long 1000 10000)
limit_bytes=$((80 << 20))

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
load_start "$T/mnt/ram" --size 256M --threads 2 --seconds "$seconds"
assert_ok wait_for 10 test -s "$T/mnt/ram"
load_sample_start "$T/mnt/ram" "$T/samples"
load_finish $((seconds + 120))
load_sample_stop

note "$(jq -c '{ops, p50_ns, p99_ns, max_ns}' "$T/load.json")"
note "$(tierctl stat "$T/mnt/ram" --json | jq -c '{resident_bytes, cold_bytes, stored_bytes, promotions, demotions, demotions_aborted}')"
assert_ge "$(wc -l <"$T/samples")" "$seconds" "samples"
assert_le "$(load_sample_max "$T/samples" resident_bytes)" "$limit_bytes" "resident_bytes"
assert_ge "$(stat_of "$T/mnt/ram" demotions)" "$moved" demotions
assert_ge "$(stat_of "$T/mnt/ram" promotions)" "$moved" promotions
assert_eq "$(stat_of "$T/mnt/ram" errors)" 0 errors
for stage in event queue read decode copy total; do
	tierctl stat "$T/mnt" --json | jq -e --arg stage $stage '.fault_stages[$stage] | .count > 0 and .p50_ns > 0 and .p50_ns <= .p99_ns' >/dev/null ||
		fail "no figures of the stage $stage"
done

load_verify "$T/mnt/ram" --direct
tierfs_stop "$T/mnt"
