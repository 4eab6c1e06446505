#!/bin/bash
# timeout: 120
# Compressed blocks that stay in DRAM: they are part of the budget, come back, survive a kill, and are on the disk after an end.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool jq python3
M=$T/mnt
options=dram=64M,warm=24M,min_idle=1

sum() { sha256sum <"$1"; }

store_figure() # KEY
{
	tierctl stat --json "$M" | jq -r --arg key "$1" '.store[$key]'
}

# A third of it is noise, so three of them fit where one did.
fill() # FILE MIB
{
	python3 - "$1" "$2" <<-'END'
		import os, sys
		with open(sys.argv[1], "wb", buffering=0) as file:
		    for _ in range(int(sys.argv[2]) * 64):
		        file.write((os.urandom(5461) + b"tierfs" * 2000)[:16384])
	END
}

tierfs_start "$T/pool" "$M" "$options"
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")

note "what is demoted stays in DRAM, and counts"
assert_eq "$(tierctl get "$M" dram | grep -oE '[0-9]+M')" 64M "dram="
assert_eq "$(store_figure warm_limit_bytes)" $((24 << 20))
fill "$M/file" 48
whole=$(sum "$M/file")
assert_ok tierctl demote "$M/file"
assert_ge "$(store_figure warm_blocks)" 2000 "warm blocks"
assert_le "$(store_figure warm_bytes)" $((24 << 20)) "warm bytes"
assert_eq "$(store_figure warm_moved_blocks)" 0 "values that went to the disk"
assert_eq "$(sum "$M/file")" "$whole" "content from warm values"
assert_ge "$(store_figure warm_hits)" 2000

note "more than fits goes to the disk"
fill "$M/more" 96
more=$(sum "$M/more")
assert_ok tierctl demote "$M/more"
assert_le "$(store_figure warm_bytes)" $((24 << 20)) "warm bytes"
assert_ge "$(store_figure warm_moved_blocks)" 1000 "values that went to the disk"
assert_eq "$(sum "$M/file")" "$whole"
assert_eq "$(sum "$M/more")" "$more"

note "killed: warm values are found again, what was removed is not"
fill "$M/gone" 8
assert_ok tierctl demote "$M/gone"
rm "$M/gone"
tierfs_crash "$M"
[ -n "$(ls "$run_dir/arena/warm")" ] || fail "nothing is warm"
tierfs_start "$T/pool" "$M" "$options"
assert_eq "$(sum "$M/file")" "$whole" "after a kill"
assert_eq "$(sum "$M/more")" "$more" "after a kill"
fill "$M/again" 30
again=$(sum "$M/again")
assert_ok tierctl demote "$M/again"
tierfs_crash "$M"

note "the next mount has no warm values: they go to the disk"
tierfs_start "$T/pool" "$M" dram=64M,min_idle=1
assert_eq "$(store_figure warm_limit_bytes)" 0
assert_eq "$(ls "$run_dir/arena/warm")" "" "files of warm values"
assert_eq "$(sum "$M/file")" "$whole" "without warm="
assert_eq "$(sum "$M/again")" "$again" "without warm="
tierfs_stop "$M"

note "after an end all of it is on the disk"
tierfs_start "$T/pool" "$M" "$options"
fill "$M/last" 24
last=$(sum "$M/last")
tierfs_stop "$M"
[ ! -e "$run_dir" ] || fail "$run_dir is still there"
tierfs_start "$T/pool" "$M" "$options"
assert_eq "$(sum "$M/last")" "$last" "after an end"

note "dram can be changed while more than twice what is warm"
assert_ok tierctl set "$M" dram=80M
assert_eq "$(tierctl get "$M" dram | grep -oE '[0-9]+M')" 80M
assert_status 1 tierctl set "$M" dram=48M
tierfs_stop "$M"
