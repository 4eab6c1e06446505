#!/bin/bash
# tierctl copy: both directions, holes, odd sizes, other filesystems, and what it does to hotness: nothing.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool jq

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
ram=$T/mnt/vm0
truncate -s 96M "$ram"
# 20 MiB of data around a large hole, in more than one piece.
dd if=/dev/urandom of="$ram" bs=1M count=12 conv=notrunc status=none || fail "cannot fill"
dd if=/dev/urandom of="$ram" bs=64K count=128 seek=1280 conv=notrunc status=none || fail "cannot fill"
tierctl demote "$ram" >/dev/null || fail demote

note "out of the mount"
before=$(tierctl stat "$ram" --json | jq -c '[.promotions, .resident_bytes, .cold_bytes]')
tierctl copy --json "$ram" "$T/copy" >"$T/totals" || fail copy
assert_eq "$(jq -c '[.size_bytes, .data_bytes + .hole_bytes]' "$T/totals")" "[$((96 << 20)),$((96 << 20))]" totals
assert_le "$(du -k "$T/copy" | cut -f1)" $((21 << 10)) "KiB of a copy with holes"
assert_eq "$(tierctl stat "$ram" --json | jq -c '[.promotions, .resident_bytes, .cold_bytes]')" "$before" "figures after the copy"
assert_eq "$(stat_of "$ram" direct_read_bytes)" $((20 << 20)) direct_read_bytes
assert_same_content "$ram" "$T/copy" # through the kernel's cache: changes the figures

note "into the mount: cold, without DRAM"
tierctl copy --depth 64 "$T/copy" "$T/mnt/vm1" >/dev/null || fail "copy into the mount"
assert_eq "$(stat_of "$T/mnt/vm1" resident_bytes)" 0 "resident_bytes of what was copied"
assert_eq "$(stat_of "$T/mnt/vm1" cold_bytes)" $((20 << 20)) "cold_bytes of what was copied"
assert_same_content "$T/copy" "$T/mnt/vm1"

note "over an existing file: content goes where the source has holes"
dd if=/dev/urandom of="$T/old" bs=1M count=100 status=none
tierctl copy "$T/copy" "$T/old" >/dev/null || fail "copy over a file"
assert_same_content "$T/copy" "$T/old"
dd if=/dev/urandom of="$T/mnt/vm2" bs=1M count=8 status=none
tierctl copy --depth 1 "$T/copy" "$T/mnt/vm2" >/dev/null || fail "copy over a RAM file"
assert_eq "$(stat_of "$T/mnt/vm2" hole_bytes)" $((76 << 20)) "holes of a file that had content"
assert_same_content "$T/copy" "$T/mnt/vm2"

note "odd sizes, and filesystems without O_DIRECT"
head -c 5000001 /dev/urandom >"$T/odd"
tierctl copy "$T/odd" "$T/odd2" >/dev/null || fail "copy of an odd size"
assert_same_content "$T/odd" "$T/odd2"
mount_tmpfs "$T/small" size=16M
tierctl copy "$T/odd" "$T/small/odd" >/dev/null || fail "copy to a tmpfs"
assert_same_content "$T/odd" "$T/small/odd"
tierctl copy "$T/odd" "$T/mnt/odd" >/dev/null || fail "copy of an odd size to a RAM file"
assert_same_content "$T/odd" "$T/mnt/odd"
tierctl copy "$T/mnt/odd" "$T/odd3" >/dev/null || fail "copy of a RAM file of an odd size"
assert_same_content "$T/odd" "$T/odd3"
: >"$T/empty"
tierctl copy "$T/empty" "$T/empty2" >/dev/null || fail "copy of nothing"
assert_eq "$(stat -c %s "$T/empty2")" 0

note "refusals"
assert_status 1 tierctl copy "$ram" "$ram"
assert_match "$out" "it is the source$"
assert_status 1 tierctl copy "$T/copy" "$T/small/big"
assert_match "$out" "^tierctl: $T/small/big: cannot be written: No space left on device$"
[ ! -e "$T/small/big" ] || fail "half a copy was left behind"
assert_status 1 tierctl copy "$T/none" "$T/x"
assert_match "$out" "^tierctl: $T/none: cannot open: No such file"
assert_status 1 tierctl copy "$T" "$T/x"
assert_match "$out" "not a regular file$"
assert_status 1 tierctl copy --depth 0 "$T/copy" "$T/x"
assert_match "$out" "^tierctl: 0: not a depth$"
tierfs_stop "$T/mnt"
