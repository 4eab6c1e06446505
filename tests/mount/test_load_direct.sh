#!/bin/bash
# timeout: 240
# A verified load over the budget, while another process reads random ranges with O_DIRECT and checks them, one writes a part of the file
# with O_DIRECT, and a third demotes and promotes in a loop.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
seconds=$(load_or_long 10 60)

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
load_start "$T/mnt/ram" --size 256M --range 0:192M --threads 2 --seconds "$seconds"
load_progresses 30
load_sample_start "$T/mnt/ram" "$T/samples"

"$PROG_RMW" --state "$T/state" --direct-read --seconds "$seconds" --json "$T/mnt/ram" >"$T/reader.json" 2>"$T/reader.log" &
reader=$!
cleanup_push stop_process "$reader"
"$PROG_RMW" --state "$T/state" --direct-write --range 192M:64M --seconds "$seconds" --json "$T/mnt/ram" \
	>"$T/writer.json" 2>"$T/writer.log" &
writer=$!
cleanup_push stop_process "$writer"
# shellcheck disable=SC2154 # set by load_start
while alive "$load_pid"; do
	tierctl demote "$T/mnt/ram" && tierctl promote "$T/mnt/ram" && echo turn >>"$T/turns"
done >"$T/mover.log" 2>&1 &
mover=$!
cleanup_push stop_process "$mover"

load_finish $((seconds + 120))
assert_ok wait_for 60 gone "$reader"
assert_ok wait_for 60 gone "$writer"
wait "$reader" || fail "the O_DIRECT reader ended with exit $?: $(cat "$T/reader.log")"
wait "$writer" || fail "the O_DIRECT writer ended with exit $?: $(cat "$T/writer.log")"
load_sample_stop
wait "$mover"

note "direct reads $(jq .ops "$T/reader.json"), direct writes $(jq .ops "$T/writer.json"), turns $(wc -l <"$T/turns")"
note "$(tierctl stat "$T/mnt/ram" --json | jq -c '{promotions, demotions, demotions_aborted, direct_read_bytes, direct_write_bytes}')"
assert_ge "$(wc -l <"$T/turns")" 1 "turns of demote and promote ($(cat "$T/mover.log"))"
assert_ge "$(jq .ops "$T/reader.json")" 100 "direct reads"
assert_ge "$(jq .ops "$T/writer.json")" 100 "direct writes"
assert_le "$(load_sample_max "$T/samples" resident_bytes)" $((80 << 20)) "resident_bytes"
assert_eq "$(stat_of "$T/mnt/ram" errors)" 0 errors

load_verify "$T/mnt/ram" --direct
tierctl run -- "$PROG_RMW" --state "$T/state" --verify-only --map "$T/mnt/ram" || fail "wrong through a mapping"
tierfs_stop "$T/mnt"
