#!/bin/bash
# timeout: 240
# Cold access beside a verified load with the demoter at work: every payload is right, what is refused has not changed, nothing is
# promoted by it, and an idle file keeps its ages.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
seconds=$(load_or_long 8 60)
PROG_ACCESS=$TIERFS_BUILD/tests/vm/prog_access
ram=$T/mnt/ram

# Ages grow with each scan of the file, so two exports are comparable when none was between them.
same_hotness() # COMMAND...: leaves the hotness of $ram as it was
{
	local turn
	for ((turn = 0; turn < 20; turn++)); do
		tierctl hotness export "$ram" "$T/before.hot" || fail "export"
		"$@" || fail "exit $?: $*"
		tierctl hotness export "$ram" "$T/after.hot" || fail "export"
		if [ "$(tierctl hotness show "$T/before.hot" --json | jq .scans)" = "$(tierctl hotness show "$T/after.hot" --json | jq .scans)" ]; then
			# Records begin behind the header.
			cmp -i 2120:2120 "$T/before.hot" "$T/after.hot" || fail "other ages after $*"
			return
		fi
	done
	fail "the file was scanned during each of $turn turns"
}

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
load_start "$ram" --size 256M --range 0:192M --threads 2 --seconds "$seconds"
load_progresses 30
note "readers and writers with flags, beside a load over the budget, and a mover"
pids=()
for i in 1 2; do
	"$PROG_ACCESS" read "$T/state" "$ram" 0 256M "$seconds" >"$T/read$i.json" 2>"$T/read$i.log" &
	pids+=($!)
	cleanup_push stop_process $!
done
"$PROG_ACCESS" write "$T/state" "$ram" 192M 64M "$seconds" >"$T/write.json" 2>"$T/write.log" &
pids+=($!)
cleanup_push stop_process $!
# shellcheck disable=SC2154 # set by load_start
while alive "$load_pid"; do
	tierctl demote "$ram" && tierctl promote "$ram" --offset 192M && echo turn >>"$T/turns"
done >"$T/mover.log" 2>&1 &
mover=$!
cleanup_push stop_process "$mover"
load_finish $((seconds + 120))
for pid in "${pids[@]}"; do
	assert_ok wait_for 60 gone "$pid"
	wait "$pid" || fail "cold access ended with exit $?: $(cat "$T"/read?.log "$T/write.log")"
done
wait "$mover"
note "$(cat "$T/read1.json")"
note "$(cat "$T/write.json")"
for result in READ_OK RESIDENT HOLE; do
	assert_ge "$(jq ".$result" "$T/read1.json")" 1 "reads that said $result"
done
assert_ge "$(jq .WRITE_OK "$T/write.json")" 1 "writes that said WRITE_OK"
# Whether the mover found room beside the load is chance.
tierctl demote "$ram" || fail "demote"
tierctl promote "$ram" --offset 192M || fail "promote"
"$PROG_ACCESS" write "$T/state" "$ram" 192M 64M 1 >"$T/write.json" || fail "cold access ended with exit $?"
assert_ge "$(jq .RESIDENT "$T/write.json")" 1 "writes that said RESIDENT"
assert_eq "$(stat_of "$ram" errors)" 0 errors
load_verify "$ram" --direct
tierctl run -- "$PROG_RMW" --state "$T/state" --verify-only --map "$ram" || fail "wrong through a mapping"

note "an idle file: promotions 0, and the same ages"
tierctl demote "$ram" || fail "demote"
promotions=$(stat_of "$ram" promotions)
same_hotness "$PROG_ACCESS" read "$T/state" "$ram" 0 256M 1
assert_eq "$(stat_of "$ram" promotions)" "$promotions" "promotions after cold reads"
assert_eq "$(stat_of "$ram" resident_bytes)" 0 "resident_bytes after cold reads"
load_verify "$ram" --direct
tierfs_stop "$T/mnt"
