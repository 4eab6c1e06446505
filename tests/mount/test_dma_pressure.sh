#!/bin/bash
# timeout: 120
# One disk read of many blocks pins them one after the other, and may have to wait for room in the middle of it: what it has
# pinned so far looks idle meanwhile, and must not be demoted under it.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
seconds=$(load_or_long 5 60)

# As short as it is where nothing else is said, too.
for options in dram=32M,min_idle=1 dram=32M; do
	note "$options"
	tierfs_start "$T/pool" "$T/mnt" "$options"
	tierctl run -- "$TIERFS_BUILD/tests/prog/prog_dma" --source "$T" --seconds "$seconds" --size 128M --threads 64 --io 128K \
		--recheck 0.1 "$T/mnt/ram" || fail "a read into memory was lost"
	assert_ge "$(stat_of "$T/mnt/ram" demotions)" 100 demotions
	assert_eq "$(stat_of "$T/mnt/ram" errors)" 0 errors
	rm "$T/mnt/ram"
	tierfs_stop "$T/mnt"
done
