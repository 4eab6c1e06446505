#!/bin/bash
# timeout: 120
# Disk reads go straight into memory that is mapped plain, while its pages are taken out of the kernel's cache as fast as the
# budget asks for: no read may be lost.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
seconds=$(load_or_long 5 60)

tierfs_start "$T/pool" "$T/mnt" dram=32M
"$TIERFS_BUILD/tests/prog/prog_dma" --source "$T" --seconds "$seconds" --size 128M --threads 8 --io 64K --recheck 0.5 "$T/mnt/ram" ||
	fail "a read into memory was lost (exit $?)"
note "$(tierctl stat "$T/mnt/ram" --json | jq -c '{mapping, cached_bytes, arena_bytes, cold_bytes, stored_bytes, errors}')"
# The memory is four times the budget, so what is not in it went out.
assert_ge "$(stat_of "$T/mnt/ram" cold_bytes)" $((32 << 20)) cold_bytes
assert_eq "$(stat_of "$T/mnt/ram" errors)" 0 errors
tierfs_stop "$T/mnt"
