#!/bin/bash
# Streams between pools that differ: another block size, a budget that says no. Ages arrive as they were, the youngest blocks are the ones
# in DRAM, and odd sizes of files are whole.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/two_mounts.sh"

need_root
need_fuse
need_tool jq python3

content() # FILE
{
	tierctl copy "$1" "$T/copied" >/dev/null && sha256sum <"$T/copied"
}

two_mounts dram=64M,min_idle=1 dram=16M,min_idle=1
vm=$T/one/vm0

note "more in DRAM than the target's budget: the youngest stay"
truncate -s $(((48 << 20) + 4096)) "$vm"
fill_mixed "$vm" 0 8
dd if=/dev/urandom of="$vm" bs=64K count=480 seek=160 conv=notrunc status=none # 10 to 40 MiB, in DRAM
printf 'the last page' | dd of="$vm" bs=4096 seek=12288 conv=notrunc,sync status=none
assert_eq "$(stat -c %s "$vm")" $(((48 << 20) + 4096))
sha=$(content "$vm")
tierctl send "$vm" 2>/dev/null | tierctl recv "$T/two/vm0" --json >"$T/received" || fail recv
note "$(jq -c . "$T/received")"
assert_eq "$(content "$T/two/vm0")" "$sha" "content"
assert_ge "$(jq .dram_blocks "$T/received")" 256 "blocks that came into DRAM"
assert_le "$(stat_of "$T/two/vm0" resident_bytes)" $((16 << 20)) resident_bytes
assert_eq "$(jq '.dram_blocks + .store_blocks' "$T/received")" "$(jq .blocks "$T/received")" "blocks"

note "there and back without a change: next to nothing travels"
tierctl send --via "tierctl recv --answer $vm" "$T/two/vm0" --json >"$T/sent" || fail "send back"
assert_eq "$(jq -c '[.cold_blocks, .resident_blocks, .hole_blocks]' "$T/sent")" '[0,0,0]' "what went back"
assert_le "$(jq .stream_bytes "$T/sent")" 1000 "bytes"
assert_eq "$(content "$vm")" "$sha" "content"

note "a file that is mapped plain: what the kernel holds of it goes, too"
cat >"$T/plain.py" <<'PYTHON'
import mmap, os, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
    memory[3 << 20 : 6 << 20] = os.urandom(3 << 20)
    memory[9 << 20 : 10 << 20] = bytes(1 << 20)
    print("ready", flush=True)
    sys.stdin.read()
PYTHON
mkfifo "$T/hold"
python3 "$T/plain.py" "$vm" <"$T/hold" >"$T/plain.log" 2>&1 &
plain_pid=$!
cleanup_push stop_process "$plain_pid"
exec 3>"$T/hold"
assert_ok wait_for 20 grep -q ready "$T/plain.log"
assert_eq "$(stat_of "$vm" mapping)" plain mapping
tierctl send "$vm" 2>"$T/errors" | tierctl recv "$T/two/plain" >/dev/null || fail "recv: $(cat "$T/errors")"
exec 3>&-
assert_ok wait_for 10 gone "$plain_pid"
sha=$(content "$vm")
assert_eq "$(content "$T/two/plain")" "$sha" "content of a file that was mapped plain"

note "an empty file, and one of holes"
: >"$T/one/empty"
tierctl send "$T/one/empty" 2>/dev/null | tierctl recv "$T/two/empty" >/dev/null || fail "recv of nothing"
assert_eq "$(stat -c %s "$T/two/empty")" 0
truncate -s 1T "$T/one/holes"
tierctl send "$T/one/holes" 2>/dev/null | tierctl recv "$T/two/holes" --json >"$T/received" || fail "recv of holes"
assert_eq "$(stat -c %s "$T/two/holes")" $((1 << 40))
assert_le "$(jq .stream_bytes "$T/received")" 1000 "bytes of holes"
two_mounts_stop

note "another block size: everything arrives, cold"
rm -rf "$T/pool2"
two_mounts dram=64M,min_idle=1 dram=64M,min_idle=1,block=64K
sha=$(content "$vm")
tierctl send "$vm" 2>/dev/null | tierctl recv "$T/two/vm0" >/dev/null || fail recv
assert_eq "$(content "$T/two/vm0")" "$sha" "content in larger blocks"
tierctl send --via "tierctl recv --answer $T/one/vm1" "$T/two/vm0" --json >"$T/sent" || fail "send back"
assert_eq "$(content "$T/one/vm1")" "$sha" "content in smaller blocks"
assert_eq "$(jq .delta "$T/sent")" false "hashes of another block size"
two_mounts_stop
