#!/bin/bash
# Who may map a RAM file, by map= and by who came first; and that who may not is told why.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq
plain=$TIERFS_BUILD/tests/prog/prog_plain
[ -x "$plain" ] || fail "$plain is not built"

mapping() { tierctl stat "$ram" --json | jq -r '"\(.mapping) \(.mappers)"'; }
mapping_is() { [ "$(mapping)" = "$1" ]; }

# Starts a holder of a mapping; its pid is in $holder_pid. It ends when the fifo's writer closes.
hold() # OUTPUT COMMAND...
{
	local output=$1
	shift
	rm -f "$T/fifo" && mkfifo "$T/fifo"
	"$@" hold <"$T/fifo" >"$output" 2>&1 &
	holder_pid=$!
	cleanup_push stop_process "$holder_pid"
	exec 9>"$T/fifo"
	wait_for 10 grep -q holding "$output" || fail "not mapped: $(cat "$output")"
}

let_go()
{
	exec 9>&-
	wait_for 10 gone "$holder_pid" || fail "the holder does not end"
	wait "$holder_pid" || fail "the holder ended with exit $?"
	wait_for 30 mapping_is "none 0" || fail "still mapped: $(mapping)"
}

refused() # COMMAND...: at mmap, with ENODEV
{
	assert_status 1 "$@"
	assert_eq "$out" ENODEV "$*"
}

fresh_mount() # MAP
{
	tierfs_start "$T/pool" "$T/mnt" "dram=64M,min_idle=1,map=$1"
	ram=$T/mnt/ram
	[ -e "$ram" ] || truncate -s 8M "$ram"
}

note "map=auto"
fresh_mount auto
hold "$T/out" "$plain" "$ram" dirty 8388608
mapping_is "plain 1" || fail "mapped plain, and stat says $(mapping)"
assert_match "$(tierctl ls "$T/mnt")" "ram +8M plain"
note "  who would attach is refused while it is plain"
assert_status 1 tierctl run "$plain" "$ram" touch 0
assert_match "$out" "EBUSY|ENODEV"
note "  others map it plain too; O_DIRECT is never mapped"
assert_ok "$plain" "$ram" check 8388608
refused "$plain" --direct "$ram"
let_go
note "  attached comes first: plain is refused, and reads are right"
hold "$T/out" tierctl run "$plain" "$ram" check 8388608
mapping_is "attached 1" || fail "attached, and stat says $(mapping)"
refused "$plain" "$ram"
refused "$plain" "$ram"
assert_eq "$(grep -c "ram: process [0-9]* (prog_plain) can read and write it, but not map it (ENODEV), because the file is attached" "$T/tierfs.log")" 2 \
	"lines about two refusals"
assert_eq "$(dd if="$ram" bs=4096 count=1 status=none | od -An -tu8 -N8 | tr -d ' ')" 1 "the first word by read(2)"
let_go
note "  and after it, what the kernel had cached before is not believed"
assert_ok tierctl run "$plain" "$ram" punch 16 >/dev/null
assert_eq "$(dd if="$ram" bs=4096 count=1 status=none | od -An -tu8 -N8 | tr -d ' ')" 0 "the first word after a punch"
assert_ok "$plain" "$ram" dirty 8388608 check 8388608
note "  one after the other, at once"
for ((i = 0; i < 20; i++)); do
	assert_ok tierctl run "$plain" "$ram" dirty 4096 check 4096
	assert_ok "$plain" "$ram" check 4096
done
tierfs_stop "$T/mnt"

note "map=attached"
fresh_mount attached
refused "$plain" "$ram"
assert_match "$(tail -n 1 "$T/tierfs.log")" "process [0-9]+ \(prog_plain\) can read and write it.*map=attached"
assert_ok tierctl run "$plain" "$ram" check 8388608
tierfs_stop "$T/mnt"

note "map=plain"
fresh_mount plain
assert_ok "$plain" "$ram" check 8388608
hold "$T/out" "$plain" "$ram" check 8388608
mapping_is "plain 1" || fail "mapped plain, and stat says $(mapping)"
let_go
tierfs_stop "$T/mnt"
