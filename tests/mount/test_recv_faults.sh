#!/bin/bash
# timeout: 240
# Transfers that break, each in its middle: the target's disk is full, its daemon or its tierctl is killed, the sender is killed, the stream
# is damaged in every way. One line says what happened, the program at the source goes on, FILE is what it was and FILE.partial what the
# next attempt goes on from.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"
. "$(dirname "$0")/../lib/two_mounts.sh"

need_load
need_tool mkfs.ext4 losetup python3
vm=$T/one/vm0

note "the target's pool is on a disk of 160 MiB"
truncate -s 160M "$T/disk.img"
mkfs.ext4 -q -m 0 "$T/disk.img" || fail mkfs.ext4
mkdir "$T/disk"
mount -o loop "$T/disk.img" "$T/disk" 2>"$T/errors" || skip "no loop device can be mounted: $(cat "$T/errors")"
cleanup_push unmount "$T/disk"
tierfs_start "$T/pool1" "$T/one" dram=64M,min_idle=1
one_pid=$tierfs_pid
tierfs_start "$T/disk/pool2" "$T/two" dram=32M,min_idle=1
fallocate -l 80M "$T/disk/other" || fail fallocate
load_start "$vm" --size 48M --seconds 100 --rate 2000 --fresh
load_progresses 20
truncate -s 160M "$vm"
head -c 100M /dev/urandom | dd of="$vm" bs=1M seek=60 oflag=direct iflag=fullblock conv=notrunc status=none || fail "cannot fill $vm"

partial_bytes() { stat_of "$T/two/vm0.partial" cold_bytes; }
has_begun() { [ "$(partial_bytes)" -ge $((partial_before + (3 << 20))) ]; }

send_in_background() # to vm0 of the second mount, slowly
{
	partial_before=$(partial_bytes)
	tierctl send --live --pause true --rate 24M --via "exec tierctl recv --answer $T/two/vm0 2>$T/recv.err" "$vm" >"$T/sent" 2>"$T/send.err" &
	send_pid=$!
	cleanup_push stop_process "$send_pid"
	wait_for 30 has_begun || fail "the transfer does not begin: $(cat "$T/send.err" "$T/recv.err")"
}

has_failed() # WHAT FILE PATTERN: one line that says it
{
	assert_eq "$(grep -c . "$2")" 1 "$1: lines of $(cat "$2")"
	assert_match "$(cat "$2")" "$3" "$1"
}

goes_on() # the program at the source; and nothing has the name of a whole file
{
	load_progresses 20
	[ ! -e "$T/two/vm0" ] || fail "half a file has the name of a whole one"
	[ -e "$T/two/vm0.partial" ] || fail "what came is gone"
}

note "the disk of the target is full"
tierctl send --live --pause true --via "exec tierctl recv --answer $T/two/vm0 2>$T/recv.err" "$vm" >"$T/sent" 2>"$T/send.err" && fail "100 MiB fit on the disk"
has_failed receiver "$T/recv.err" "^tierctl: $T/two/vm0: block [0-9]+ cannot be written: No space left on device$"
has_failed sender "$T/send.err" "^tierctl: $vm: the receiver: block [0-9]+ cannot be written: No space left on device$"
goes_on
assert_ge "$(partial_bytes)" $((8 << 20)) "bytes that came before the disk was full"
rm "$T/disk/other"

note "the target's daemon is killed, and another one comes"
send_in_background
tierfs_crash "$T/two"
wait "$send_pid" && fail "a transfer to a dead daemon ended well"
has_failed receiver "$T/recv.err" "^tierctl: $T/two/vm0: blocks cannot be written: the daemon is gone"
has_failed sender "$T/send.err" "^tierctl: $vm: the receiver: blocks cannot be written: the daemon is gone"
tierfs_start "$T/disk/pool2" "$T/two" dram=32M,min_idle=1
goes_on

note "the target's tierctl is killed"
send_in_background
kill -KILL "$(pgrep -P "$send_pid" tierctl)" || fail "no receiver"
wait "$send_pid" && fail "a transfer to nobody ended well"
has_failed sender "$T/send.err" "^tierctl: $vm: the receiver went away"
goes_on

note "the source's tierctl is killed"
send_in_background
kill -KILL "$send_pid"
wait "$send_pid"
assert_ok wait_for 20 grep -q . "$T/recv.err"
has_failed receiver "$T/recv.err" "^tierctl: $T/two/vm0: record [0-9]+.* at offset [0-9]+: the stream ends here$"
goes_on

note "what was there each time was not sent again, and at last all of it is"
program=$load_pid
tierctl send --live --pause "$(stop_command "$program")" --via "tierctl recv --answer $T/two/vm0" "$vm" --json >"$T/sent" 2>"$T/send.err" || fail "send: $(cat "$T/send.err")"
note "$(jq -c . "$T/sent")"
assert_ge "$(jq .skipped_blocks "$T/sent")" $(((17 << 20) / 16384)) "blocks that were there already"
content() { tierctl copy "$1" "$T/copied" >/dev/null && sha256sum <"$T/copied"; }
assert_eq "$(content "$vm")" "$(content "$T/two/vm0")" content
[ ! -e "$T/two/vm0.partial" ] || fail "a partial file is left"
kill -CONT "$program"
stop_process "$program"

note "into a file that is there under its own name: it is in pieces after a failure, and whole after the next attempt"
truncate -s 160M "$T/two/vm1"
tierctl send "$vm" 2>/dev/null | head -c 9000000 | assert_status 1 tierctl recv --in-place "$T/two/vm1"
assert_ge "$(stat_of "$T/two/vm1" stored_bytes)" 1000000 "bytes of a transfer that was cut"
rm "$T/two/vm0"
tierctl send --via "tierctl recv --answer --in-place $T/two/vm1" "$vm" --json >"$T/sent" 2>"$T/send.err" || fail "send: $(cat "$T/send.err")"
assert_eq "$(jq .delta "$T/sent")" true
assert_eq "$(content "$vm")" "$(content "$T/two/vm1")" content

note "streams that are damaged: the record is named, the file is what it was"
truncate -s 1M "$T/one/small"
fill_mixed "$T/one/small" 0 1
head -c 16384 /dev/zero | dd of="$T/one/small" bs=16K seek=20 oflag=direct conv=notrunc status=none
tierctl send "$T/one/small" >"$T/stream" 2>/dev/null || fail send
tierctl recv "$T/two/small" <"$T/stream" >/dev/null || fail recv
sum=$(sha256sum <"$T/two/small")
python3 - "$T/stream" "$T/bad" <<'PYTHON' || fail "cannot make bad streams"
import os, random, struct, sys

data = open(sys.argv[1], "rb").read()
os.mkdir(sys.argv[2])
at, records = 8, [] # behind the magic
while at < len(data):
    length = struct.unpack_from("<I", data, at + 4)[0]
    records.append((at, at + 32 + length))
    at += 32 + length
pick = random.Random(7)
def put(name, *parts):
    with open(os.path.join(sys.argv[2], name), "wb") as file:
        file.write(b"".join(parts))
for start, end in [records[i] for i in (0, 1, 2, len(records) // 2, len(records) - 1)]:
    put(f"cut-before-{start}", data[:start])
    put(f"cut-within-{start}", data[:pick.randrange(start + 1, end)])
for bit in [*range(64, 64 + 72 * 8, 37), *(pick.randrange(64, len(data) * 8) for _ in range(24))]:
    byte = bit // 8
    put(f"flipped-{bit}", data[:byte], bytes([data[byte] ^ 1 << bit % 8]), data[byte + 1:])
blocks = [record for record in records if data[record[0]] == 4]
for _ in range(4):
    i = pick.randrange(len(blocks) - 1)
    (a, b), (c, d) = blocks[i], blocks[i + 1]
    put(f"reordered-{a}", data[:a], data[c:d], data[b:c], data[a:b], data[d:])
    put(f"repeated-{a}", data[:b], data[a:b], data[b:])
    put(f"left-out-{a}", data[:a], data[b:])
    put(f"oversized-{a}", data[:a + 4], struct.pack("<I", pick.choice((16409, 1 << 24, 0xffffffff))), data[a + 8:])
put("followed", data, b"x")
put("huge-file", data[:8 + 32], struct.pack("<Q", 1 << 62), data[8 + 40:])
PYTHON
for bad in "$T/bad"/*; do
	assert_status 1 tierctl recv "$T/two/small" <"$bad"
	assert_eq "$(wc -l <<<"$out")" 1 "${bad##*/}: lines of $out"
	assert_match "$out" "^tierctl: $T/two/small: record [0-9]+( \([a-z]+\))? at offset [0-9]+: " "${bad##*/}"
done
assert_eq "$(sha256sum <"$T/two/small")" "$sum" "content after streams that were refused"

note "ages that are damaged: the same"
# What came back soon is of tier 1; generations grow by themselves.
tierctl promote "$T/one/small" >/dev/null || fail promote
tierctl hotness export "$T/one/small" "$T/ages" || fail export
of_tier_1() { tierctl map "$1" --json | jq '[.runs[] | select(.tier == 1) | .length] | add // 0'; }
assert_ge "$(of_tier_1 "$T/one/small")" $((512 << 10)) "bytes of tier 1 at the source"
size=$(stat -c %s "$T/ages")
for at in 0 8 12 16 24 40 64 2112 2120 2128 2136 2144 $((size - 1)); do
	python3 -c 'import sys; data = bytearray(open(sys.argv[1], "rb").read()); data[int(sys.argv[3])] ^= 16; open(sys.argv[2], "wb").write(data)' \
		"$T/ages" "$T/bad-ages" "$at" || fail "cannot make bad ages"
	assert_status 1 tierctl hotness import "$T/two/small" "$T/bad-ages"
	assert_eq "$(wc -l <<<"$out")" 1 "lines of $out"
	assert_match "$out" '(header|record [0-9]+ at byte [0-9]+|not a hotness file|version)' "flipped at $at"
done
assert_eq "$(of_tier_1 "$T/two/small")" 0 "bytes of tier 1 after imports that failed"
tierfs_stop "$T/two"
tierfs_pid=$one_pid
tierfs_stop "$T/one"
