#!/bin/bash
# timeout: 300
# Shares are respected: a directory with dram.max has no more of DRAM than that, attached or plain, unlinked or not, and nobody else pays for
# it; what dram.min promises is not taken by a neighbour who wants more than there is; weights divide the rest. Every word is right.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq

cat >"$T/nameless.py" <<'PY'
import os, runpy, sys, threading, time
path = sys.argv[1]
def unlink():
    time.sleep(0.2)
    os.unlink(path)
threading.Thread(target=unlink).start()
runpy.run_path(sys.argv[2])
PY
pids=()
user=$TIERFS_SRC/tests/prog/user.py
figure() { stat_of "$T/mnt/$1" "$2"; }
at_most() { [ "$(figure "$1" resident_bytes)" -le "$2" ]; }
holds() # PID FILE BYTES: as long as the process lives, the file has no more than that in DRAM
{
	local most=0 now
	while alive "$1"; do
		now=$(figure "$2" resident_bytes 2>/dev/null) || now=0
		[ "${now:-0}" -gt "$most" ] && most=$now
		sleep 0.05
	done
	wait "$1" || fail "$2: exit $? ($(tail -n 3 "$T/user.log"))"
	note "$2 had up to $most bytes in DRAM"
	assert_le "$most" "$3" "bytes of $2 in DRAM"
}

tierfs_start "$T/pool" "$T/mnt" dram=160M,min_idle=0.1
mkdir "$T/mnt/acme" "$T/mnt/calm"
truncate -s 64M "$T/mnt/acme/vm" "$T/mnt/acme/nameless" "$T/mnt/acme/plain"
truncate -s 32M "$T/mnt/calm/vm"
dd if=/dev/urandom of="$T/mnt/calm/vm" bs=1M count=32 conv=notrunc status=none
tierctl set "$T/mnt/acme" dram.max=24M >/dev/null || fail "set dram.max"

note "a max, attached"
start_process "$T/user.log" tierctl run -- python3 "$user" "$T/mnt/acme/vm"
holds "$started_pid" acme/vm $((24 << 20))
assert_ge "$(figure acme/vm demotions)" $((40 << 6)) "demotions of its own"
assert_eq "$(figure calm/vm demotions)" 0 "demotions of the neighbour"

note "a max, of a file without a name"
tierctl demote "$T/mnt/acme/vm" >/dev/null
start_process "$T/user.log" tierctl run -- python3 "$T/nameless.py" "$T/mnt/acme/nameless" "$user"
pid=$started_pid most=0
while alive "$pid"; do
	now=$(stat_of "$T/mnt" resident_bytes)
	[ "$now" -gt "$most" ] && most=$now
	sleep 0.05
done
wait "$pid" || fail "exit $? ($(tail -n 3 "$T/user.log"))"
[ ! -e "$T/mnt/acme/nameless" ] || fail "it still has a name"
assert_le "$most" $(((24 + 32) << 20)) "bytes in DRAM"
assert_eq "$(figure calm/vm demotions)" 0 "demotions of the neighbour"

note "a max, plain"
assert_ok python3 "$user" "$T/mnt/acme/plain"
wait_for 60 at_most acme/plain $((24 << 20)) || fail "acme/plain: $(tierctl stat --json "$T/mnt/acme/plain")"
assert_eq "$(figure calm/vm demotions)" 0 "demotions of the neighbour"

note "a max of a file of its own, within that of the directory; and one that is lowered"
tierctl set "$T/mnt/acme/vm" dram.max=8M >/dev/null || fail "set dram.max"
start_process "$T/user.log" tierctl run -- python3 "$user" "$T/mnt/acme/vm"
holds "$started_pid" acme/vm $((8 << 20))
tierctl set "$T/mnt/calm" dram.max=16M >/dev/null || fail "set dram.max"
wait_for 60 at_most calm/vm $((16 << 20)) || fail "calm/vm: $(tierctl stat --json "$T/mnt/calm/vm")"
out=$(tierctl pin "$T/mnt/calm/vm" 2>&1) && fail "more was pinned than the max allows"
assert_match "$out" "calm/vm.*Cannot allocate memory" "the refusal"
tierctl set "$T/mnt/calm" dram.max=none >/dev/null || fail "take it back"
tierctl set "$T/mnt/acme" dram.max=none >/dev/null || fail "take it back"
tierctl set "$T/mnt/acme/vm" dram.max=none >/dev/null || fail "take it back"

note "a min"
tierctl promote "$T/mnt/calm/vm" >/dev/null || fail promote
tierctl set "$T/mnt/calm" dram.min=32M >/dev/null || fail "set dram.min"
before=$(figure calm/vm demotions)
truncate -s 256M "$T/mnt/acme/vm"
assert_ok tierctl run -- python3 "$user" "$T/mnt/acme/vm"
assert_ge "$(figure acme/vm demotions)" $((256 << 6)) "demotions of who wants more"
assert_eq "$(figure calm/vm demotions)" "$before" "demotions of who was promised"

note "weights"
tierctl set "$T/mnt/calm" dram.min=none >/dev/null || fail "take it back"
tierctl set "$T/mnt/acme" dram.weight=300 >/dev/null || fail "set dram.weight"
is_divided() # within a tenth, and nearly all of it is used
{
	local acme calm
	acme=$(figure acme/vm resident_bytes) calm=$(figure calm/vm resident_bytes)
	last="$acme and $calm"
	[ $((acme + calm)) -ge $((120 << 20)) ] && [ $((acme * 10)) -ge $((calm * 27)) ] && [ $((acme * 10)) -le $((calm * 33)) ]
}
for name in acme calm; do
	start_process "$T/$name.log" tierctl run -- "$TIERFS_BUILD/tests/prog/prog_rmw" --state "$T/$name.state" --size 256M --seconds 300 "$T/mnt/$name/vm"
	pids+=("$started_pid")
done
wait_for 60 is_divided || fail "weights 3:1 gave $last bytes"
note "weights 3:1 gave $last bytes"
for pid in "${pids[@]}"; do
	alive "$pid" || fail "a load ended: $(tail -n 3 "$T/acme.log" "$T/calm.log")"
	stop_process "$pid"
done
assert_eq "$(stat_of "$T/mnt" errors)" 0 errors
tierfs_stop "$T/mnt"
