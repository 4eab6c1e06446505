#!/bin/bash
# A RAM file goes from one mount to another: by pipe, by TCP, by command; whole, cold alone, and only what changed. Nothing moves at the
# source, ages arrive, and the target is whole or not there.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/two_mounts.sh"

need_root
need_fuse
need_tool jq
two_mounts dram=64M,min_idle=1
vm=$T/one/vm0

note "a file with cold blocks of an age, holes, and resident ones"
truncate -s 96M "$vm"
fill_mixed "$vm" 0 24
fill_mixed "$vm" 40 8
tierctl demote "$vm" >/dev/null || fail demote
dd if=/dev/urandom of="$vm" bs=64K count=64 seek=1040 conv=notrunc status=none # 65 to 69 MiB, in DRAM
sha=$(tierctl copy "$vm" "$T/image" >/dev/null && sha256sum <"$T/image")
before=$(map_of "$vm")
figures=$(tierctl stat "$vm" --json | jq -c '[.promotions, .demotions, .resident_bytes, .cold_bytes]')

same_content() # FILE
{
	assert_eq "$(tierctl copy "$1" "$T/copied" >/dev/null && sha256sum <"$T/copied")" "$sha" "content of $1"
}

note "through a pipe"
tierctl send "$vm" --json 2>"$T/sent" | tierctl recv "$T/two/vm0" --json >"$T/received" || fail "recv: $(cat "$T/sent")"
same_content "$T/two/vm0"
assert_eq "$(map_of "$vm")" "$before" "map of the source"
assert_eq "$(tierctl stat "$vm" --json | jq -c '[.promotions, .demotions, .resident_bytes, .cold_bytes]')" "$figures" "figures of the source"
assert_eq "$(map_of "$T/two/vm0")" "$before" "map of the target"
assert_eq "$(stat_of "$T/two/vm0" promotions)" 0 "promotions of the target"
assert_eq "$(jq -c '[.size_bytes, .stream_bytes]' "$T/sent")" "$(jq -c '[.size_bytes, .stream_bytes]' "$T/received")" totals
note "$(jq -c . "$T/sent")"
assert_le "$(jq .stream_bytes "$T/sent")" $((18 << 20)) "bytes of the stream"
assert_eq "$(stat -c '%a %s' "$T/two/vm0")" "600 $((96 << 20))"
[ ! -e "$T/two/vm0.partial" ] || fail "a partial file is left"
full_bytes=$(jq .stream_bytes "$T/sent")

note "ages travel"
for _ in 1 2 3; do
	tierctl send "$vm" 2>/dev/null | tierctl recv "$T/two/aged" >/dev/null || fail recv
done
assert_eq "$(map_of "$T/two/aged")" "$before" "map after replacing"

note "cold blocks alone"
tierctl send --cold "$vm" 2>/dev/null | tierctl recv "$T/two/cold" --json >"$T/received" || fail "recv of cold blocks"
assert_eq "$(stat_of "$T/two/cold" cold_bytes)" $((32 << 20)) cold_bytes
assert_eq "$(stat_of "$T/two/cold" resident_bytes)" 0 resident_bytes

note "only what changed: by a list, and by a receiver that answers"
dd if=/dev/urandom of="$vm" bs=16K count=3 seek=100 oflag=direct conv=notrunc status=none
dd if=/dev/zero of="$vm" bs=16K count=2 seek=200 oflag=direct conv=notrunc status=none
sha=$(tierctl copy "$vm" "$T/image" >/dev/null && sha256sum <"$T/image")
tierctl stamp "$T/two/aged" >"$T/list" || fail stamp
tierctl send --since "$T/list" "$vm" --json 2>"$T/sent" | tierctl recv "$T/two/aged" >/dev/null || fail "recv of a delta"
same_content "$T/two/aged"
assert_eq "$(jq '[.cold_blocks, .resident_blocks, .hole_blocks, .delta]' -c "$T/sent")" '[3,0,2,true]' "what a delta has"
assert_le "$(jq .stream_bytes "$T/sent")" 60000 "bytes of a delta"
assert_eq "$(tierctl stamp --json "$vm" | jq -r .stamp)" "$(tierctl stamp --json "$T/two/aged" | jq -r .stamp)" stamps
tierctl send --via "tierctl recv --answer $T/two/vm0" "$vm" --json >"$T/sent" 2>"$T/errors" || fail "send --via: $(cat "$T/errors")"
same_content "$T/two/vm0"
assert_eq "$(jq '[.cold_blocks, .resident_blocks, .hole_blocks, .delta]' -c "$T/sent")" '[3,0,2,true]' "what a delta has"

note "a delta for other content is refused, and the file stays"
dd if=/dev/urandom of="$T/two/aged" bs=16K count=1 oflag=direct conv=notrunc status=none
mark=$(sha256sum <"$T/two/aged")
tierctl send --since "$T/list" "$vm" 2>/dev/null | assert_status 1 tierctl recv "$T/two/aged"
assert_status 1 tierctl recv "$T/two/aged" < <(tierctl send --since "$T/list" "$vm" 2>/dev/null)
assert_match "$out" "^tierctl: $T/two/aged: the stream builds on content that is not here$"
assert_eq "$(sha256sum <"$T/two/aged")" "$mark" "content after a refusal"

note "over TCP, with a rate"
start_process "$T/listener" tierctl recv --listen 127.0.0.1:0 "$T/two/tcp"
assert_ok wait_for 10 grep -q listening "$T/listener"
address=$(sed -n 's/.*listening on //p' "$T/listener")
start=$(date +%s%N)
tierctl send --connect "$address" --rate 12M "$vm" >/dev/null || fail "send over TCP: $(cat "$T/listener")"
elapsed_ms=$((($(date +%s%N) - start) / 1000000))
assert_ge "$elapsed_ms" $((full_bytes * 800 / (12 << 20))) "milliseconds at 12 MiB a second"
assert_ok wait_for 10 gone "$started_pid"
same_content "$T/two/tcp"

note "a transfer that breaks goes on where it was"
tierctl send "$vm" 2>/dev/null | head -c 6000000 | assert_status 1 tierctl recv "$T/two/broken"
[ ! -e "$T/two/broken" ] || fail "half a file has the name of a whole one"
[ -e "$T/two/broken.partial" ] || fail "what came is gone"
tierctl send --via "tierctl recv --answer $T/two/broken" "$vm" --json >"$T/sent" 2>"$T/errors" || fail "send: $(cat "$T/errors")"
same_content "$T/two/broken"
assert_le "$(jq .stream_bytes "$T/sent")" $((full_bytes - 5000000)) "bytes of the rest"
[ ! -e "$T/two/broken.partial" ] || fail "a partial file is left"

note "damage, garbage, aborts: the file is what it was"
mark=$(sha256sum <"$T/two/tcp")
tierctl send "$vm" 2>/dev/null >"$T/stream"
cp "$T/stream" "$T/flipped"
change_byte "$T/flipped" 3000000
assert_status 1 tierctl recv "$T/two/tcp" <"$T/flipped"
assert_match "$out" "^tierctl: $T/two/tcp: record [0-9]+ \(block\) at offset [0-9]+: damaged, or not in its place$"
assert_status 1 tierctl recv "$T/two/tcp" </bin/ls
assert_match "$out" "record 0 at offset 0: this is no stream of tierfs"
assert_status 1 tierctl recv "$T/two/tcp" < <(cat "$T/stream" /bin/ls)
assert_match "$out" "something follows the end"
assert_status 1 tierctl recv "$T/two/tcp" </dev/null
assert_match "$out" "the stream ends here"
assert_eq "$(sha256sum <"$T/two/tcp")" "$mark" "content after streams that were refused"

note "refusals"
assert_status 1 tierctl recv "$T/no-mount" <"$T/stream"
assert_match "$out" "not in a tierfs mount"
assert_status 1 tierctl send "$T/image"
assert_match "$out" "^tierctl: $T/image: not in a tierfs mount"
assert_status 1 tierctl send --cold --live "$vm"
assert_status 1 tierctl send --rate x "$vm"
assert_match "$out" "^tierctl: x: not a size$"
assert_status 1 tierctl send --connect nowhere "$vm"
assert_match "$out" "write HOST:PORT"
start_process "$T/user" tierctl run -- "$TIERFS_BUILD/tests/prog/prog_touch" --file "$T/two/tcp" --op read --seconds 3 --rounds 2 --keep --size 16M
is_mapped() { [ "$(stat_of "$T/two/tcp" mappers)" = 1 ]; }
assert_ok wait_for 10 is_mapped
assert_status 1 tierctl recv "$T/two/tcp" <"$T/stream"
assert_match "$out" "is mapped"
stop_process "$started_pid"
two_mounts_stop
