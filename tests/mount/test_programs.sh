#!/bin/bash
# timeout: 60
# The load programs see what they are there to see: each kind of damage, done on purpose to an ordinary file, is found and named.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

file=$T/file
size=$((4 << 20))

verify() # leaves the output in $out
{
	assert_status 1 "$PROG_RMW" --state "$T/state" --verify-only "$file"
}

damage() # WANTED-TEXT DD-ARGUMENT...: does it, looks, undoes it
{
	local wanted=$1
	shift
	cp "$file" "$T/whole"
	dd of="$file" bs=4096 conv=notrunc status=none "$@"
	verify
	# shellcheck disable=SC2154 # set by assert_status
	assert_match "$out" "$wanted" "what it says"
	cp "$T/whole" "$file"
	load_verify "$file" >/dev/null
}

"$PROG_RMW" --size $size --seconds 0.5 --read-ratio 0 --state "$T/state" "$file" >/dev/null || fail "load"
cp "$file" "$T/old"
"$PROG_RMW" --seconds 0.5 --read-ratio 0 --state "$T/state" "$file" >/dev/null || fail "load goes on"
load_verify "$file"

note "a lost page, an old one, one from another place, a torn one"
damage 'page 77.* zeros in place of data' if=/dev/zero count=1 seek=77
damage 'page 78.* stale: an older version' if="$T/old" count=1 skip=78 seek=78
damage 'page 79.* the content of another place .offset 0x[0-9a-f]* version' if="$T/old" count=1 skip=80 seek=79
printf 'x' >"$T/x"
damage 'page 1, slot 15.* torn or damaged' if="$T/x" bs=1 count=1 seek=$((4096 + 1000))

note "in a running load"
"$PROG_RMW" --seconds 20 --state "$T/state" "$file" >"$T/out" &
load=$!
cleanup_push stop_process "$load"
dd if=/dev/zero of="$file" bs=4096 count=1000 conv=notrunc status=none
wait_for 15 gone "$load" || fail "the load does not see it"
status=0
wait "$load" || status=$?
assert_eq $status 1 "exit status of the load"

note "through O_DIRECT while a load runs, without a false alarm"
file=/dev/shm/tierfs-test.$$
cleanup_push rm -f "$file"
"$PROG_RMW" --seconds 1.5 --size $size --fresh --state "$T/state" "$file" >"$T/out" &
load=$!
cleanup_push stop_process "$load"
wait_for 30 test -s "$T/out"
"$PROG_RMW" --seconds 0.5 --state "$T/state" --direct-read "$file" >"$T/reader" 2>&1 || fail "the reader: $(cat "$T/reader")"
wait "$load" || fail "$(cat "$T/out")"
