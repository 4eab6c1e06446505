#!/bin/bash
# Shares of files and directories: set, shown, refused with one line, and kept over an end and a kill. Not that they are respected.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool jq

shares_of() # PATH: what is set, in one line
{
	tierctl get "$1" | grep -E '^[a-z]+\.[a-z_]+=' | tr '\n' ' '
}

what_is_set() # WHEN
{
	assert_eq "$(shares_of "$tenant/vm0")" "dram.min=8M dram.weight=200 " "share of a file $1"
	assert_eq "$(shares_of "$tenant")" "dram.max=32M " "share of a directory $1"
	assert_eq "$(shares_of "$T/mnt")" "dram.max=48M " "share of the mount $1"
	assert_eq "$(shares_of "$T/mnt/vm1")" "" "share of another file $1"
}

tierfs_start "$T/pool" "$T/mnt" dram=64M,allow_other
tenant=$T/mnt/tenant
mkdir "$tenant" "$tenant/below"
truncate -s 4M "$tenant/vm0" "$T/mnt/vm1"
plain=$(tierctl ls "$T/mnt" | head -n 1)

note "set and get"
assert_eq "$(tierctl set "$tenant/vm0" dram.min=8M dram.weight=200 | tr '\n' ' ')" "dram.min=8M dram.weight=200 "
assert_eq "$(tierctl set "$tenant" dram.max=32M)" dram.max=32M
assert_eq "$(tierctl set "$T/mnt" dram.max=48M min_idle=3 | tr '\n' ' ')" "min_idle=3 dram.max=48M "
what_is_set "when it was set"
assert_eq "$(tierctl get "$tenant" | wc -l)" 1 "lines of a directory, which has no options"
assert_eq "$(tierctl get "$tenant/vm0" dram.min dram.max dram min_idle | tr '\n' ' ')" "dram.min=8M dram.max=32M dram=64M min_idle=3 "
assert_eq "$(tierctl get "$T/mnt/vm1" dram.max dram.min dram.weight | tr '\n' ' ')" "dram.max=48M dram.min=none dram.weight=100 "
assert_eq "$(tierctl get "$tenant" --json | jq -c .)" '{"dram.max":"32M"}' "get --json"
assert_eq "$(tierctl get "$tenant/vm0" --json | jq -c '[.dram, ."dram.min", ."dram.max"]')" '["64M","8M",null]' "get --json of a file"
assert_eq "$(tierctl set "$tenant/below" dram.max=16M --json | jq -c .)" '{"dram.max":"16M"}' "set --json"
assert_eq "$(tierctl set "$tenant/below" dram.max=none)" dram.max=none
assert_eq "$(tierctl get "$tenant/below" dram.max)" dram.max=32M "what holds where nothing is set"

note "ls and stat"
assert_match "$(tierctl ls "$T/mnt" | head -n 1)" "ERRORS +MIN +MAX +WEIGHT +STATE"
assert_match "$(tierctl ls "$tenant/vm0" | tail -n 1)" " 8M +32M +200 +ok"
assert_match "$(tierctl ls "$T/mnt/vm1" | tail -n 1)" " - +48M +- +ok"
assert_match "$(tierctl stat "$tenant/vm0" | tr -s ' \n' ' ')" "dram_min_bytes 8M dram_max_bytes 32M dram_weight 200"
assert_eq "$(tierctl stat "$T/mnt/vm1" | grep -c '^dram_')" 1 "figures of a file with a bound alone"
assert_eq "$(stat_of "$tenant/vm0" dram_min_bytes)" $((8 << 20)) dram_min_bytes
assert_eq "$(stat_of "$tenant/vm0" dram_max_bytes)" $((32 << 20)) dram_max_bytes
tierctl ls "$tenant" --json | jq -e '.files[0] | .dram_weight == 200 and .dram_max_bytes == 33554432' >/dev/null || fail "ls --json"

note "refused"
refuses="the daemon refuses"
one_line "$tenant: $refuses: dram.foo: no such share" tierctl set "$tenant" dram.foo=1G
one_line "$tenant: $refuses: dram.foo: no such share" tierctl get "$tenant" dram.foo
one_line "$tenant: $refuses: disk.max: 1K: not a value it can have" tierctl set "$tenant" disk.max=1K
one_line "$tenant: $refuses: dram.max: 12Q: not a value it can have" tierctl set "$tenant" dram.max=12Q
one_line "$tenant/vm0: $refuses: dram.min: 8M is above dram.max, which is 4M" tierctl set "$tenant/vm0" dram.max=4M
one_line "$T/mnt/vm1: $refuses: dram.min: 60M is more than can be promised: 37M are left" tierctl set "$T/mnt/vm1" dram.min=60M
one_line "$tenant: $refuses: dram.min: 1G is above dram.max, which is 32M" tierctl set "$tenant" dram.weight=7 dram.min=1G
one_line "$tenant/below: $refuses: dram.min: 1G is more than can be promised: 22M are left" tierctl set "$tenant/below" dram.weight=7 dram.min=1G
assert_eq "$(shares_of "$tenant/below")" "" "share of a directory where one of two was refused"
one_line "$tenant: $refuses: dram: a directory has shares, and no options" tierctl set "$tenant" dram=1G
one_line "$tenant: $refuses: dram: a directory has shares, and no options" tierctl get "$tenant" dram
one_line "dram.max: not a setting: write NAME=VALUE" tierctl set "$tenant" dram.max
one_line ".*: not a setting: it is not UTF-8" tierctl set "$tenant" dram.max=$'\xff'
what_is_set "when others were refused"

note "an ordinary user"
chmod 755 "$T" "$T/mnt" "$tenant"
chmod 644 "$tenant/vm0"
as_nobody=(setpriv --reuid nobody --regid nogroup --clear-groups "$TIERFS_BUILD/bin/tierctl")
if "${as_nobody[@]}" --help >/dev/null 2>&1; then
	assert_eq "$("${as_nobody[@]}" get "$tenant")" dram.max=32M "a directory that he may read"
	assert_eq "$("${as_nobody[@]}" get "$tenant/vm0" dram.max)" dram.max=32M "a file that he may read"
	one_line "$tenant: $refuses: only root may do that" "${as_nobody[@]}" set "$tenant" dram.max=16M
	one_line "$tenant/vm0: $refuses: only root may do that" "${as_nobody[@]}" set "$tenant/vm0" dram.max=16M
fi

note "kept"
tierfs_stop "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" dram=64M,allow_other
what_is_set "after a remount"
mv "$tenant/vm0" "$tenant/vm2"
assert_eq "$(shares_of "$tenant/vm2")" "dram.min=8M dram.weight=200 " "share of a file that was renamed"
mv "$tenant/vm2" "$tenant/vm0"
tierfs_crash "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" dram=64M,allow_other
what_is_set "after a kill"

note "taken back"
tierctl set "$tenant/vm0" dram.min=none dram.weight=none >/dev/null || fail "take back"
tierctl set "$tenant" dram.max=none >/dev/null || fail "take back"
tierctl set "$T/mnt" dram.max=none >/dev/null || fail "take back"
assert_eq "$(shares_of "$tenant/vm0")$(shares_of "$tenant")" ""
assert_eq "$(tierctl get "$tenant")" "" "get of a directory that has nothing"
assert_eq "$(tierctl get "$tenant" dram.max)" dram.max=none
assert_eq "$(tierctl ls "$T/mnt" | head -n 1 | tr -s ' ')" "$(tr -s ' ' <<<"$plain")" "columns of ls without shares"
tierfs_stop "$T/mnt"
