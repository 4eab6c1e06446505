#!/bin/bash
# timeout: 120
# Disk reads go into huge pages, while the budget becomes small, large and small again: pages are split and demoted under
# reads in flight, and no read may be lost.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
seconds=$(load_or_long 12 60)

is_huge()
{
	[ "$(stat_of "$T/mnt/ram" huge_bytes)" -ge $((100 << 20)) ]
}

tierfs_start "$T/pool" "$T/mnt" dram=512M,min_idle=0.2
grep -q "cannot be seen" "$T/tierfs.log" && skip "huge pages need a host that shows pins"
tierctl run -- "$TIERFS_BUILD/tests/prog/prog_dma" --source "$T" --seconds "$seconds" --size 128M --threads 32 --io 64K --huge \
	"$T/mnt/ram" >"$T/dma.log" 2>&1 &
dma=$!
cleanup_push stop_process "$dma"
assert_ok wait_for 20 is_huge
note "$(stat_of "$T/mnt/ram" huge_bytes) bytes are huge"
for size in 32M 512M 32M; do
	sleep 1
	assert_ok tierctl set "$T/mnt" dram=$size
done
wait_for $((seconds + 60)) gone "$dma" || fail "the reads hang"
wait "$dma" || fail "a read into memory was lost: $(cat "$T/dma.log")"
cat "$T/dma.log"
note "$(stat_of "$T/mnt/ram" demotions) demotions"
assert_ge "$(stat_of "$T/mnt/ram" demotions)" 500 demotions
assert_eq "$(stat_of "$T/mnt/ram" errors)" 0 errors
assert_eq "$(stat_of "$T/mnt/ram" huge_bytes)" 0 huge_bytes
tierfs_stop "$T/mnt"
