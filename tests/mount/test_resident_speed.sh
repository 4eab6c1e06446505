#!/bin/bash
# timeout: 120
# Resident memory is as fast as /dev/shm: the same program, both files in one process, in turns. The short run only finds what is badly
# wrong, since a busy machine disturbs it.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
rounds=$(load_or_long 15 99)
least=$(load_or_long 0.80 0.95)
shm=/dev/shm/tierfs-test.$$
cleanup_push rm -f "$shm"

tierfs_start "$T/pool" "$T/mnt" dram=512M
for op in write read rmw; do
	result=$(tierctl run -- "$TIERFS_BUILD/tests/prog/prog_touch" --file "$T/mnt/ram" --file "$shm" --size 256M --op $op \
		--rounds "$rounds" --seconds 0.05) || fail "prog_touch: exit $?"
	ratio=$(jq '.files[0].rate_ratio' <<<"$result")
	note "$op: $(jq -c '[.files[].ns_per_op]' <<<"$result") ns, $ratio of the rate on /dev/shm"
	[ "$(jq -n "$ratio >= $least")" = true ] || fail "$op: $ratio, wanted at least $least"
done
tierfs_stop "$T/mnt"
