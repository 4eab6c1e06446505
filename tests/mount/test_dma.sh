#!/bin/bash
# timeout: 240
# Disk reads go straight into attached memory while blocks are demoted as fast as they can: no read may be lost.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
seconds=$(load_or_long 5 60)

dma() # FILE PROG-ARGUMENT...
{
	local file=$1
	shift
	tierctl run -- "$TIERFS_BUILD/tests/prog/prog_dma" --source "$T" --seconds "$seconds" "$@" "$file" ||
		fail "exit $?: $*"
	assert_ge "$(stat_of "$file" demotions)" 100 demotions
	assert_eq "$(stat_of "$file" errors)" 0 errors
}

# As short as it is where nothing else is said, too.
for options in dram=32M,min_idle=1 dram=32M; do
	tierfs_start "$T/pool" "$T/mnt" "$options"
	note "$options: one read after the other"
	dma "$T/mnt/few" --size 128M --threads 1 --io 16K
	rm "$T/mnt/few"
	note "$options: many at once, each of them slow"
	dma "$T/mnt/many" --size 128M --threads 64 --io 16K
	rm "$T/mnt/many"
	tierfs_stop "$T/mnt"
done
