#!/bin/bash
# timeout: 120
# Clients of the attach socket that break its rules, beside a program that must not notice.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
load_start "$T/mnt/ram" --size 128M --seconds 12
mkdir "$T/mnt/dir"
truncate -s 1M "$T/mnt/victim"
descriptors=$(find "/proc/$tierfs_pid/fd" -type l | wc -l)
"$TIERFS_BUILD/tests/prog/prog_bad_client" "$T/mnt/victim" "$T/mnt/dir" || fail "the daemon does not answer as it should"
alive "$tierfs_pid" || fail "the daemon is gone: $(tail -n 3 "$T/tierfs.log")"

few_descriptors()
{
	[ "$(find "/proc/$tierfs_pid/fd" -type l | wc -l)" -le $((descriptors + 8)) ]
}
wait_for 10 few_descriptors || fail "the daemon keeps descriptors of clients that are gone: $(find "/proc/$tierfs_pid/fd" -type l -printf '%l\n' | sort | uniq -c)"
load_finish 60
assert_eq "$(tr -d '\0' <"$T/mnt/victim" | wc -c)" 1 "bytes that were written by a client that died"
tierfs_stop "$T/mnt"
