#!/bin/bash
# timeout: 400
# The daemon is killed under a verified load and started again on the same pool, several times in a row. The load never ends, and
# not one word is lost.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
times=$(load_or_long 3 10)
options=dram=64M,min_idle=1

tierfs_start "$T/pool" "$T/mnt" "$options"
load_start "$T/mnt/ram" --size 256M --threads 2 --seconds 100000
load_progresses 30
for ((i = 1; i <= times; i++)); do
	# At any moment of the load's life: in a burst, or while all of it waits for room.
	sleep "$((RANDOM % 2)).$((RANDOM % 10))"
	tierfs_crash "$T/mnt"
	tierfs_start "$T/pool" "$T/mnt" "$options"
	load_progresses 60
	note "restart $i: $(load_ops) operations, $(stat_of "$T/mnt/ram" mappers) mapper, $(stat_of "$T/mnt/ram" cold_bytes) cold bytes"
done
# shellcheck disable=SC2154 # set by load_start
kill -TERM "$load_pid"
load_finish 120
assert_ge "$(stat_of "$T/mnt/ram" demotions)" 1 demotions
assert_eq "$(stat_of "$T/mnt/ram" errors)" 0 errors

# What is in the file now is what was written, also for others and after an unmount.
load_verify "$T/mnt/ram" --direct
tierfs_stop "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" "$options"
load_verify "$T/mnt/ram" --direct
tierfs_stop "$T/mnt"
