#!/bin/bash
# timeout: 120
# Ages out of a file and into another one with other blocks; files that are damaged; working sets.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool jq

ages() # FILE: generation and tier of what is not a hole, as runs of 64K
{
	tierctl map "$1" --json | jq -c '[.runs[] | select(.state != "hole") | . as $r | range(.offset; .offset + .length; 65536) |
		[., $r.generation, $r.tier]] | unique'
}

must_name() # TEXT FILE: the import fails with it, and nothing has changed
{
	assert_status 1 tierctl hotness import "$T/b/ram" "$2"
	assert_match "$out" "$1" "the error"
	assert_eq "$(wc -l <<<"$out")" 1 "lines of the error"
	assert_eq "$(ages "$T/b/ram")" "$set_ages" "ages after an import that failed"
}

tierfs_start "$T/pool-a" "$T/a" dram=64M,block=16K
truncate -s 8M "$T/a/ram"
seq 1 900000 | head -c 4M | dd of="$T/a/ram" bs=64K iflag=fullblock oflag=direct conv=notrunc status=none || fail "write"
tierctl promote "$T/a/ram" --length 1M >/dev/null || fail "promote"
tierctl pin "$T/a/ram" --length 64K >/dev/null || fail "pin"

note "export, show"
tierctl hotness export "$T/a/ram" "$T/hot" || fail "export"
assert_eq "$(tierctl hotness show "$T/hot" --json | jq '[.generations[].resident_bytes] | add')" $((1 << 20)) "resident bytes"
assert_eq "$(tierctl hotness show "$T/hot" --json | jq '[.generations[].cold_bytes] | add')" $((3 << 20)) "cold bytes"
assert_eq "$(tierctl hotness show "$T/hot" --json | jq .hole_bytes)" $((4 << 20)) "holes"
assert_eq "$(tierctl hotness show "$T/hot" --json | jq .pinned_bytes)" 65536 "pinned bytes"
assert_eq "$(tierctl hotness show "$T/a/ram" --compare --json | jq -c .copy)" \
	"{\"none\":0,\"same\":$((4 << 20)),\"differs\":0,\"unknown\":0}" "what is known of the copies"
head -c 4096 /dev/urandom | dd of="$T/a/ram" bs=4096 seek=17 oflag=direct conv=notrunc status=none || fail "write"
assert_eq "$(tierctl hotness show "$T/a/ram" --compare --json | jq .copy.differs)" 16384 "bytes that changed"
tierctl hotness show "$T/a/ram" | grep -q GENERATION || fail "show"
tierctl hotness export "$T/a/ram" - | tierctl hotness show - --json | jq -e .size_bytes >/dev/null || fail "through a pipe"

note "access: what is cold is read and written where it is"
tierctl access read "$T/a/ram" "$T/out" --json >"$T/json" || fail "access read"
assert_eq "$(jq -c .bytes "$T/json")" \
	"{\"READ_OK\":$((3 << 20)),\"WRITE_OK\":0,\"SET_OK\":0,\"RESIDENT\":$((1 << 20)),\"HOLE\":$((4 << 20)),\"BUSY\":0,\"ERROR\":0}" "results"
cmp -n $((3 << 20)) -i $((1 << 20)) "$T/a/ram" "$T/out" || fail "what was read"
assert_eq "$(tierctl access write "$T/a/ram" "$T/out" --json | jq -c '[.bytes.WRITE_OK, .bytes.RESIDENT]')" "[$((7 << 20)),$((1 << 20))]" "results of a write"
tierctl access read "$T/a/ram" --offset 1M --length 16K | grep -q READ_OK || fail "access read as a table"
assert_status 1 tierctl access read "$T/a/ram" --offset 4K
assert_match "$out" 'whole blocks' "the error"

note "import where blocks are larger"
first_daemon=$tierfs_pid
tierfs_start "$T/pool-b" "$T/b" dram=64M,block=64K
truncate -s 8M "$T/b/ram"
seq 1 900000 | head -c 4M | dd of="$T/b/ram" bs=64K iflag=fullblock oflag=direct conv=notrunc status=none || fail "write"
# What was promoted there came back soon, and is of tier 1.
assert_eq "$(tierctl map "$T/b/ram" --json | jq '[.runs[] | select(.tier == 1) | .length] | add')" null "tier 1 before the import"
tierctl hotness import "$T/b/ram" "$T/hot" --json | jq -e '.set_bytes == 4194304 and .error_bytes == 0' >/dev/null || fail "import"
assert_eq "$(tierctl map "$T/b/ram" --json | jq '[.runs[] | select(.state == "cold") | .length] | add')" $((4 << 20)) "cold bytes"
assert_eq "$(tierctl map "$T/b/ram" --json | jq '[.runs[] | select(.tier == 1) | .length] | add')" $((1 << 20)) "tier 1 after it"
assert_eq "$(stat_of "$T/b/ram" promotions)" 0 promotions
set_ages=$(ages "$T/b/ram")

note "damaged files"
head -c 2200 "$T/hot" >"$T/bad"
must_name 'record 2 at byte 2184: the file ends within it' "$T/bad"
head -c 100 "$T/hot" >"$T/bad"
must_name 'header: the file ends within it' "$T/bad"
(cat "$T/hot"; echo) >"$T/bad"
must_name 'goes on after its last record' "$T/bad"
cp "$T/hot" "$T/bad"
change_byte "$T/bad" 2160
must_name 'record 1 at byte 2152: the checksum is wrong' "$T/bad"
# Two records in each other's place.
{ head -c 2120 "$T/hot"; tail -c +2153 "$T/hot" | head -c 32; tail -c +2121 "$T/hot" | head -c 32; tail -c +2185 "$T/hot"; } >"$T/bad"
must_name 'record 0 at byte 2120: the checksum is wrong' "$T/bad"
must_name 'not a hotness file' "$T/b/ram"
must_name 'No such file' "$T/none"

note "who may"
chmod 755 "$T" "$T/b"
chmod 644 "$T/b/ram"
assert_status 1 setpriv --reuid 65534 --regid 65534 --clear-groups "$(command -v tierctl)" hotness import "$T/b/ram" "$T/hot"

note "working sets"
tierctl wss "$T/a/ram" "$T/hot" --json | jq -e '.files | length == 2 and all(.used_bytes == 4194304 and .budget_bytes >= 0)' >/dev/null || fail "wss"
assert_eq "$(tierctl wss "$T/a" --json | jq '.files | length')" 1 "files of the mount"
tierctl wss "$T/a/ram" --rate 5 --sample 1 | grep -q 15MIN || fail "wss as a table"
assert_status 1 tierctl wss "$T/a/ram" --rate x
tierfs_stop "$T/b"
tierfs_pid=$first_daemon
tierfs_stop "$T/a"
