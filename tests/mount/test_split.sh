#!/bin/bash
# timeout: 240
# A program splits the areas of its attached memory: mprotect, mlock, madvise, mremap, munmap of parts. Only what it locked stays resident; the
# rest is demoted and promoted as before, and every word is right.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq

said() { grep -q split "$T/log"; }
resident() { stat_of "$T/mnt/ram" resident_bytes; }
# What is locked is nearly 2 MiB; a block that holds a locked page stays with it.
left() { tierctl demote "$T/mnt/ram" >/dev/null && [ "$(resident)" -le $((5 << 19)) ]; }

tierfs_start "$T/pool" "$T/mnt" dram=24M,min_idle=0.2
truncate -s 72M "$T/mnt/ram"
mkfifo "$T/go"
# shellcheck disable=SC2016
start_process "$T/log" bash -c 'exec tierctl run -- "$0" "$1" 72 <"$2"' "$TIERFS_BUILD/tests/prog/prog_split" "$T/mnt/ram" "$T/go"
exec 5>"$T/go"
wait_for 120 said || fail "it waits: $(cat "$T/log") $(tierctl stat --json "$T/mnt/ram")"
note "only what is locked stays"
wait_for 60 left || fail "what stays: $(tierctl stat --json "$T/mnt/ram")"
# 1 page, 7 pages, 1 MiB, 1 MiB without 16 pages
assert_ge "$(resident)" $(((2 << 20) - 8 * 4096)) "what is locked"
before=$(stat_of "$T/mnt/ram" promotions)
echo go >&5
wait_for 100 gone "$started_pid" || fail "it waits: $(cat "$T/log") $(tierctl stat --json "$T/mnt/ram")"
wait "$started_pid" || fail "exit $?: $(cat "$T/log")"
assert_ge "$(($(stat_of "$T/mnt/ram" promotions) - before))" $((50 << 20 >> 14)) promotions
tierfs_stop "$T/mnt"
