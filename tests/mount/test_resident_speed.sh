#!/bin/bash
# timeout: 120
# Resident memory costs nothing beside /dev/shm: once it is there, no touch of it reaches the daemon. TIERFS_LONG=1 measures it, too: the same
# program, both files in one process, in turns; a busy machine disturbs that.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
rounds=$(load_or_long 15 99)
shm=/dev/shm/tierfs-test.$$
cleanup_push rm -f "$shm"

touches() # OP ROUNDS FILE...
{
	local op=$1 rounds=$2 file args=()
	shift 2
	for file in "$@"; do
		args+=(--file "$file")
	done
	tierctl run -- "$TIERFS_BUILD/tests/prog/prog_touch" "${args[@]}" --size 256M --op "$op" --rounds "$rounds" --seconds 0.05 ||
		fail "prog_touch: exit $?"
}

events()
{
	tierctl stat "$T/mnt" --json | jq .fault_stages.event.count
}

tierfs_start "$T/pool" "$T/mnt" dram=512M
for op in write read rmw; do
	before=$(events)
	touches $op 1 "$T/mnt/ram" >/dev/null
	filled=$(events)
	result=$(touches $op "$rounds" "$T/mnt/ram" "$shm")
	after=$(events)
	ratio=$(jq '.files[0].rate_ratio' <<<"$result")
	note "$op: $(jq -c '[.files[].ns_per_op]' <<<"$result") ns, $ratio of the rate on /dev/shm; $((after - filled)) events of" \
		"$(jq '.files[0].ops' <<<"$result") touches, $((filled - before)) when it was filled"
	assert_ge "$((filled - before))" 1 "events of fresh memory"
	# Fresh memory is given in windows, whose number varies.
	assert_le "$((after - filled))" $((2 * (filled - before) + 200)) "events of $rounds rounds"
	[ "$LOAD_LONG" = 0 ] || [ "$(jq -n "$ratio >= 0.95")" = true ] || fail "$op: $ratio of the rate, wanted at least 0.95"
done
tierfs_stop "$T/mnt"
