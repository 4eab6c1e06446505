#!/bin/bash
# timeout: 300
# A move whose cold blocks come last. A program verifies its memory at the target while they are coming; who brings them is killed, the daemon
# is killed; what is written or discarded before it comes stays so; nothing is ever read that was not sent.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/two_mounts.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq python3
options=dram=48M,min_idle=1
vm=$T/one/vm0 moved=$T/two/vm0

two_mounts $options

note "a file of 96 MiB: 64 MiB cold, 1 MiB resident, the rest holes"
truncate -s 96M "$vm"
fill_mixed "$vm" 0 64
tierctl demote "$vm" >/dev/null || fail demote
dd if=/dev/urandom of="$vm" bs=64K count=16 seek=1152 conv=notrunc status=none
tierctl copy "$vm" "$T/image" >/dev/null || fail copy
cold=$(stat_of "$vm" cold_bytes)
figures() { tierctl stat "$vm" --json | jq -c '[.promotions, .demotions, .resident_bytes, .cold_bytes]'; }
before=$(figures)

# Maps FILE and compares its blocks with those of an image, in a random order and with a pause after each; FIRST comes first.
cat >"$T/verify.py" <<'PYTHON'
import mmap, os, random, sys, time
name, image, first, seed = sys.argv[1], open(sys.argv[2], "rb").read(), int(sys.argv[3]), int(sys.argv[4])
fd = os.open(name, os.O_RDWR)
memory = mmap.mmap(fd, len(image))
blocks = list(range(len(image) // 16384))
random.Random(seed).shuffle(blocks)
for done, block in enumerate([first] + blocks):
    at = block * 16384
    if memory[at:at + 16384] != image[at:at + 16384]:
        sys.exit(f"block {block} is wrong")
    time.sleep(float(sys.argv[5]))
    if done % 256 == 0:
        print("verified", done, flush=True)
print("all is right", flush=True)
PYTHON

away() { stat_of "$moved" away_bytes; }
send() { tierctl send "$@" --via "exec tierctl recv --answer ${recv:-} $moved --json 2>$T/recv" "$vm" --json >"$T/sent" 2>"$T/send.err"; }
send_in_background() # OPTION...: until the file is there
{
	send "$@" &
	send_pid=$!
	cleanup_push stop_process "$send_pid"
}
is_there() { [ -e "$moved" ]; }
supplier() { pgrep -f -n "^tierctl recv --answer.*$moved"; }

note "moved, slowly where nobody waits: what is away must outlast all that is done to it on a slow machine"
send_in_background --live --pause true --post-copy --rate 1M
wait_for 60 is_there || fail "the file does not come: $(cat "$T/send.err" "$T/recv")"
assert_ge "$(away)" $((40 << 20)) "bytes that are away when the target may go on"
assert_eq "$(stat_of "$moved" cold_bytes)" "$cold" "cold bytes of the target, where they may be"
tierctl run python3 "$T/verify.py" "$moved" "$T/image" 2000 1 0.05 >"$T/verify.log" 2>&1 &
verify_pid=$!
cleanup_push stop_process "$verify_pid"
dd if="$moved" of="$T/piece" bs=1M skip=50 count=2 iflag=direct status=none || fail "direct read of what is away"
cmp "$T/piece" <(dd if="$T/image" bs=1M skip=50 count=2 status=none) || fail "a direct read is wrong"

note "its supplier is killed: who needs a block waits"
kill -KILL "$(supplier)" || fail "no supplier"
wait "$send_pid" && fail "the sender does not notice"
assert_match "$(cat "$T/send.err")" "^tierctl: $vm: its cold blocks are not all at the target; keep it and go on with send --resume: "
left=$(away)
note "$left bytes are away"
assert_ge "$left" 1 "bytes that are away"
waits() { [ "$(stat_of "$moved" wanted_blocks)" -ge 1 ]; }
wait_for 30 waits || fail "nobody waits: $(cat "$T/verify.log")"
alive "$verify_pid" || fail "the program ended: $(cat "$T/verify.log")"
wait_for 10 grep -q 'nobody brings the' "$T/tierfs.log" || fail "the daemon does not say so"
last_away() # BYTES: the block at which the last run of that many begins
{
	tierctl map "$moved" --json | jq "[.runs[] | select(.away and .length >= $1)][-1].offset / 16384"
}
written=$(last_away 65536)
[ -n "$written" ] || fail "no four blocks in a row are away"

note "what is written or discarded meanwhile stays so; a reader that is killed goes away"
image_patch() { dd of="$T/image" bs=16K seek="$1" count=1 conv=notrunc status=none; }
head -c 16K /dev/urandom >"$T/block"
stop_process "$verify_pid"
dd if="$T/block" of="$moved" bs=16K seek="$written" oflag=direct conv=notrunc status=none || fail "direct write"
image_patch "$written" <"$T/block"
fallocate -p -o $(((written + 1) * 16384)) -l 16384 "$moved" || fail discard
image_patch $((written + 1)) </dev/zero
cat "$T/block" >"$T/block2"
dd if="$T/block2" of="$moved" bs=16K seek=$((written + 2)) conv=notrunc status=none || fail "buffered write"
image_patch $((written + 2)) <"$T/block2"
dd if="$moved" of="$T/piece" bs=16K skip=$((written + 3)) count=1 iflag=direct status=none &
reader=$!
cleanup_push stop_process "$reader"
wait_for 10 waits || fail "the reader does not wait"
kill -KILL "$reader"
wait_for 10 gone "$reader" || fail "a reader that was killed stays"
assert_eq "$(cmp "$T/block" <(dd if="$moved" bs=16K skip="$written" count=1 iflag=direct status=none))" "" "what was written"

note "another supplier, slowly; the daemon of the target is killed in the middle, with a program that waits"
recv=--resume send_in_background --resume --rate 256K
tierctl run python3 "$T/verify.py" "$moved" "$T/image" $((written + 3)) 2 0.05 >"$T/verify.log" 2>&1 &
verify_pid=$!
cleanup_push stop_process "$verify_pid"
left=$(away)
note "$left bytes are away"
comes() { [ "$(away)" -lt "$left" ]; }
wait_for 30 comes || fail "nothing comes: $(cat "$T/send.err" "$T/recv")"
kill -KILL "$tierfs_pid"
wait "$tierfs_pid" 2>/dev/null
tierfs_start "$T/pool2" "$T/two" $options
left=$(away)
note "$left bytes are away"
note "$((left >> 20)) MiB are away after the restart"
assert_ge "$left" 1 "bytes that are away after a restart"
wait_for 60 comes || fail "nothing comes after the restart: $(cat "$T/send.err" "$T/recv")"

note "over a pipe, which cannot be shut down, from a sender that stands still: who brings the blocks ends when another one begins to"
stop_process "$verify_pid"
kill -KILL "$(supplier)" || fail "no supplier"
wait "$send_pid" && fail "the sender does not notice"
left=$(away)
note "$left bytes are away"
mkfifo "$T/fifo"
via="exec 3<&0; cat <&3 >$T/fifo & tierctl recv --answer --resume $moved <$T/fifo 2>$T/recv.pipe; kill \$!"
tierctl send --resume --rate 64K --via "$via" "$vm" 2>"$T/pipe.err" &
pipe_pid=$!
cleanup_push stop_process "$pipe_pid"
wait_for 30 comes || fail "nothing comes over pipes: $(cat "$T/pipe.err" "$T/recv.pipe")"
first=$(supplier)
kill -STOP "$pipe_pid"
recv=--resume send_in_background --resume --rate 64K
wait_for 20 gone "$first" || fail "the first one waits for ever: $(cat "$T/pipe.err" "$T/recv.pipe")"
kill -CONT "$pipe_pid"
wait_for 20 gone "$pipe_pid" || fail "its sender does not end: $(cat "$T/pipe.err")"
assert_match "$(cat "$T/recv.pipe")" "another process has begun to bring its blocks"

note "unmounted and mounted again with blocks that are away"
kill -KILL "$(supplier)" || fail "no supplier"
wait "$send_pid" && fail "the sender does not notice"
left=$(away)
note "$left bytes are away"
assert_ge "$left" 1 "bytes that are away"
tierfs_stop "$T/two"
tierfs_start "$T/pool2" "$T/two" $options
assert_eq "$(away)" "$left" "bytes that are away after an unmount"

note "a source that is another file is refused"
truncate -s 96M "$T/one/other"
fill_mixed "$T/one/other" 0 64
tierctl demote "$T/one/other" >/dev/null || fail demote
assert_status 1 tierctl send --resume --via "exec tierctl recv --answer --resume $moved 2>$T/recv" "$T/one/other"
assert_match "$(cat "$T/recv")" "are still on the other host; go on with recv --resume: block [0-9]+ cannot be written: it is not what it was"

note "the rest, as fast as it goes, while a program verifies a plain mapping"
python3 "$T/verify.py" "$moved" "$T/image" "$(last_away 1)" 3 0 >"$T/verify.log" 2>&1 &
verify_pid=$!
cleanup_push stop_process "$verify_pid"
wait_for 30 waits || fail "nobody waits: $(cat "$T/verify.log")"
recv=--resume send --resume || fail "send --resume: $(cat "$T/send.err" "$T/recv")"
note "$(jq -c . "$T/sent")"
assert_ge "$(jq .wanted_blocks "$T/sent")" 1 "blocks on demand"
assert_eq "$(away)" 0 "bytes that are away at the end"
wait_for 60 gone "$verify_pid"
assert_eq "$(tail -n 1 "$T/verify.log")" "all is right"
assert_eq "$(tierctl copy "$moved" "$T/copied" >/dev/null && sha256sum <"$T/copied")" "$(sha256sum <"$T/image")" "content at the end"
assert_eq "$(figures)" "$before" "figures of the source"
two_mounts_stop
