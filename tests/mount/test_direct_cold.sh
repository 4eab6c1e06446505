#!/bin/bash
# timeout: 120
# O_DIRECT goes to the cold store and leaves everything where it is: reads promote nothing, writes use no DRAM, and a mapper sees
# them.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
size=$((64 << 20))
ram=$T/mnt/ram

figures() # KEY...: of the file, as one line
{
	tierctl stat "$ram" --json | jq -c '[.[$ARGS.positional[]]]' --args "$@"
}

tierfs_start "$T/pool" "$T/mnt" dram=256M,min_idle=1
load_start "$ram" --size $size --seconds 2
load_finish 60

# Nobody maps the file any more: all of it goes at once.
cp "$ram" "$T/before"
tierctl demote "$ram" || fail "demote"
assert_eq "$(stat_of "$ram" resident_bytes)" 0 "resident_bytes of a demoted file"
assert_ge "$(stat_of "$ram" cold_bytes)" $((size / 2)) "cold_bytes of a demoted file"

note "O_DIRECT reads"
state=$(figures promotions resident_bytes cold_bytes hole_bytes)
read_bytes=$(stat_of "$ram" direct_read_bytes)
dd if="$ram" of="$T/copy" bs=1M iflag=direct status=none || fail "dd iflag=direct"
assert_eq "$(figures promotions resident_bytes cold_bytes hole_bytes)" "$state" "figures after an O_DIRECT read"
assert_eq $(($(stat_of "$ram" direct_read_bytes) - read_bytes)) $size "growth of direct_read_bytes"
assert_same_content "$T/before" "$T/copy"
load_verify "$T/copy"

note "O_DIRECT writes, with a mapper that has not touched the blocks"
mkfifo "$T/commands"
exec 8<>"$T/commands"
tierctl run -- "$PROG_RMW" --state "$T/state" --serve "$ram" <"$T/commands" >"$T/answers" 2>&1 8>&- &
mapper=$!
cleanup_push stop_process "$mapper"
assert_ok wait_for 30 grep -q ready "$T/answers"
assert_eq "$(stat_of "$ram" mappers)" 1 mappers
state=$(figures promotions resident_bytes)
written=$(stat_of "$ram" direct_write_bytes)
"$PROG_RMW" --state "$T/state" --direct-write --range 0:32M --seconds 1 "$ram" || fail "direct writes"
assert_eq "$(figures promotions resident_bytes)" "$state" "figures after O_DIRECT writes"
assert_ge $(($(stat_of "$ram" direct_write_bytes) - written)) $((1 << 20)) "growth of direct_write_bytes"
echo verify >&8
assert_ok wait_for 60 grep -q verified "$T/answers"
assert_match "$(grep verified "$T/answers")" 'wrong 0$' "what the mapper sees"

note "O_DIRECT writes to resident blocks, seen in place"
"$PROG_RMW" --state "$T/state" --direct-write --range 16M:32M --seconds 1 "$ram" || fail "direct writes to resident blocks"
: >"$T/answers"
echo verify >&8
assert_ok wait_for 60 grep -q verified "$T/answers"
assert_match "$(grep -a verified "$T/answers")" 'wrong 0$' "what the mapper sees"
echo quit >&8
assert_ok wait_for 30 gone "$mapper"
wait "$mapper" || fail "the mapper ended with exit $?"
exec 8>&-

note "alignment"
assert_status 1 dd if="$ram" of=/dev/null bs=512 count=1 iflag=direct
load_verify "$ram" --direct
tierfs_stop "$T/mnt"
