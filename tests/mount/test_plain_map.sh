#!/bin/bash
# timeout: 180
# Memory of a program that knows nothing of tierfs: it keeps its content, and neither other opens nor close nor stat make the kernel
# write it back or drop it; huge-page advice does not make a fault read megabytes; single pages are given back quickly.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
plain=$TIERFS_BUILD/tests/prog/prog_plain
[ -x "$plain" ] || fail "$plain is not built"

note "a load without tierctl run"
tierfs_start "$T/pool" "$T/mnt" dram=512M,min_idle=1
ram=$T/mnt/ram
assert_ok "$PROG_RMW" --state "$T/state" --size 128M --threads 2 --seconds 3 "$ram"
assert_eq "$(stat_of "$ram" errors)" 0 errors
load_verify "$ram" --direct
tierfs_stop "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" dram=512M,min_idle=1
load_verify "$ram" --map
load_verify "$ram" --direct
rm "$ram"

note "opens, stat and close leave the cache alone"
truncate -s 64M "$ram"
before=$(stat_of "$T/mnt" write_back_bytes)
text=$("$plain" "$ram" dirty 67108864 cached reopen cached child cached check 67108864) || fail "prog_plain"
note "  cached and dirty bytes at first, after opens, after a child: $(echo "$text" | paste -sd ,)"
assert_eq "$(echo "$text" | sed -n 1p)" "67108864 67108864" "cached and dirty bytes"
assert_eq "$(echo "$text" | sed -n 2p)" "67108864 67108864" "cached and dirty bytes after opens, stat and close"
# The kernel writes back when a process that inherited the mapping ends; a VMM sets MADV_DONTFORK.
assert_eq "$(echo "$text" | sed -n 3p | cut -d' ' -f1)" 67108864 "cached bytes after a child"
assert_ge "$(($(stat_of "$T/mnt" write_back_bytes) - before))" $((64 << 20)) "write_back_bytes at the end"

note "MADV_HUGEPAGE: one fault"
nothing_cached() { [ "$(stat_of "$ram" cached_bytes)" = 0 ]; }
wait_for 20 nothing_cached || fail "cached_bytes: $(stat_of "$ram" cached_bytes)"
tierctl demote "$ram" >/dev/null
before=$(stat_of "$T/mnt" fill_bytes)
assert_ok "$plain" "$ram" huge touch 33554432
filled=$(($(stat_of "$T/mnt" fill_bytes) - before))
note "  $filled bytes filled, $(stat_of "$T/mnt" refused_fills) bursts refused"
assert_ge "$filled" 4096 "bytes filled by a fault"
assert_le "$filled" $((128 << 10)) "bytes filled by a fault under MADV_HUGEPAGE"
assert_ok "$plain" "$ram" huge check 67108864
rm "$ram"
tierfs_stop "$T/mnt"

note "a balloon"
dirty=$(load_or_long 256 1024)
rm -rf "$T/pool"
tierfs_start "$T/pool" "$T/mnt" dram=2G,min_idle=1
truncate -s "${dirty}M" "$ram"
elapsed=$("$plain" "$ram" dirty $((dirty << 20)) punch 10000) || fail "prog_plain"
note "  10000 single pages of $dirty MiB of dirty memory: ${elapsed% *} ms, of which the first ${elapsed#* } ms"
written=$(stat_of "$T/mnt" write_back_bytes)
assert_le "$written" $((2 * dirty << 20)) "bytes written back: each punch asks for all that is dirty, which is so once"
rm "$ram"
tierfs_stop "$T/mnt"
