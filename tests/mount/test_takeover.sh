#!/bin/bash
# timeout: 600
# The daemon is killed while programs map files plain, hold files open and change names; the next one takes the mount over, and
# nobody notices more than a pause.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
M=$T/mnt
times=$(load_or_long 5 20)
options=dram=64M,min_idle=1

# The longest that an operation took since line LINE of the load's log, in ms.
stall_since() # LINE
{
	sleep 0.6 # a report beyond the end of the pause
	tail -n "+$1" "$T/load.log" | sed -n 's/.*slowest *\([0-9]*\)\.[0-9]* ms.*/\1/p' | sort -n | tail -n 1
}

holder_gone()
{
	[ ! -e "$run_dir" ]
}

tierfs_start "$T/pool" "$M" "$options"
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")

note "a plain load; the daemon is killed, and started by hand"
load_start_plain "$M/ram" --size 192M --threads 2 --seconds 100000
load_progresses 30
exec 8<>"$M/gone" 9<>"$M/open"
head -c 4096 /dev/urandom >"$T/block"
cat "$T/block" >&8
rm "$M/gone"
worst=0
for ((i = 1; i <= times; i++)); do
	sleep "$((RANDOM % 2)).$((RANDOM % 10))"
	line=$(($(wc -l <"$T/load.log") + 1))
	kill_daemon "$tierfs_pid"
	tierfs_start "$T/pool" "$M" "$options"
	load_progresses 60
	stall=$(stall_since "$line")
	note "takeover $i: the longest pause was $stall ms; $(load_ops) operations"
	[ "$stall" -le "$worst" ] || worst=$stall
	assert_eq "$(stat_of "$M/ram" mapping)" plain "mapping after takeover $i"
done
[ "$LOAD_LONG" = 0 ] || assert_le "$worst" 2000 "milliseconds of the longest pause"
assert_status 1 tierctl run "$TIERFS_BUILD/tests/prog/prog_plain" "$M/ram" touch 0
assert_match "$out" "EBUSY|ENODEV" "who would attach what is mapped plain"
kill -TERM "$load_pid"
load_finish 120
load_verify "$M/ram" --direct
load_verify "$M/ram" --map

note "files that are open, with a name and without"
cmp "/proc/$$/fd/8" "$T/block" || fail "a removed file that was open"
cat "$T/block" >&9
exec 9>&-
cmp "$M/open" "$T/block" || fail "a file that was open"
exec 8>&-
rm "$M/open"

note "names are changed"
start_process "$T/maker.log" bash -c "cd '$M' && mkdir t && i=0
	while mkdir t/d\$i && : >t/f\$i && ln t/f\$i t/l\$i && mv t/f\$i t/g\$i && rm t/l\$i && rmdir t/d\$i; do i=\$((i + 1)); done; exit 1"
maker=$started_pid
for ((i = 1; i <= times; i++)); do
	before=$(find "$M/t" -name 'g*' | wc -l)
	sleep "0.$((RANDOM % 10))"
	kill_daemon "$tierfs_pid"
	tierfs_start "$T/pool" "$M" "$options"
	more() { [ "$(find "$M/t" -name 'g*' | wc -l)" -gt "$before" ]; }
	wait_for 20 more || fail "the maker stands still: $(cat "$T/maker.log")"
	alive "$maker" || fail "the maker failed: $(cat "$T/maker.log")"
done
stop_process "$maker"
assert_eq "$(cat "$T/maker.log")" "" "what the maker said"
rm -rf "$M/t"

note "an attached load beside a plain one"
is_attached() { [ "$(stat_of "$M/attached" mapping)" = attached ]; }
rm "$T/state"
load_start "$M/attached" --size 128M --threads 1 --seconds 100000
load_progresses 30
"$PROG_RMW" --state "$T/state2" --size 96M --seconds 8 "$M/plain" >"$T/plain.log" 2>&1 &
plain=$!
cleanup_push stop_process "$plain"
for i in 1 2; do
	sleep 1
	kill_daemon "$tierfs_pid"
	tierfs_start "$T/pool" "$M" "$options"
	load_progresses 60
	wait_for 20 is_attached || fail "the agent did not come back after takeover $i"
done
kill -TERM "$load_pid"
load_finish 60
wait "$plain" || fail "plain: $(cat "$T/plain.log")"

rm "$T/state" "$M/attached" "$M/plain"

note "tierctl upgrade replaces the program"
load_start_plain "$M/ram" --size 192M --threads 2 --seconds 100000
load_progresses 30
ready() { [ "$(grep -c ', taken over$' "$T/tierfs.log")" -gt "$ready_before" ]; }
for i in 1 2; do
	ready_before=$(grep -c ', taken over$' "$T/tierfs.log")
	line=$(($(wc -l <"$T/load.log") + 1))
	assert_ok tierctl upgrade "$M"
	wait_for 30 ready || fail "tierfs was not replaced: $(tail "$T/tierfs.log")"
	load_progresses 30
	note "replaced: the longest pause was $(stall_since "$line") ms"
done
alive "$tierfs_pid" || fail "tierfs has not the same process number"
case ${TIERFS_MODE:-debug} in
asan | tsan) ;; # a sanitizer's runtime is the first that may be preloaded
*)
	note "a process that has the number of a daemon that is dead is not told"
	start_process "$T/stranger.log" sleep 1000
	ready_before=$(grep -c ', taken over$' "$T/tierfs.log")
	LD_PRELOAD=$TIERFS_BUILD/tests/lib/interpose_tierctl.so TIERFS_TEST_PEER=$started_pid assert_ok tierctl upgrade "$M"
	wait_for 30 ready || fail "tierfs was not replaced: $(tail "$T/tierfs.log")"
	alive "$started_pid" || fail "the stranger was told"
	kill -KILL "$started_pid"
	load_progresses 30
	;;
esac
kill -TERM "$load_pid"
load_finish 60
load_verify "$M/ram" --direct
tierfs_stop "$M"
wait_for 30 holder_gone || fail "$run_dir is still there"

note "a daemon in the background is started again by its holder"
tierfs -o "$options" "$T/pool" "$M" || fail "cannot mount"
cleanup_push unmount "$M"
load_verify "$M/ram" --map
load_start_plain "$M/ram" --size 192M --threads 2 --seconds 100000
load_progresses 30
for i in 1 2 3; do
	pid=$(daemon_pid)
	kill_daemon "$pid"
	wait_for 30 is_replaced "$pid" || fail "no new daemon"
	load_progresses 60
	assert_status 1 tierfs -o "$options" "$T/pool" "$M"
done
kill -TERM "$load_pid"
load_finish 60
load_verify "$M/ram" --direct
umount "$M" || fail "cannot unmount"
wait_for 20 holder_gone || fail "$run_dir is still there"

note "the mount is taken away while nobody serves it"
tierfs_start "$T/pool" "$M" "$options"
load_verify "$M/ram" --direct
start_process "$T/reader.log" bash -c "while dd if='$M/ram' of=/dev/null bs=1M iflag=direct status=none; do :; done"
sleep 0.3
kill_daemon "$tierfs_pid"
umount -l "$M" || fail "cannot unmount"
wait_for 30 gone "$started_pid" || fail "a reader hangs"
tierfs_start "$T/pool" "$M" "$options"
load_verify "$M/ram" --direct
tierfs_stop "$M"
wait_for 30 holder_gone || fail "$run_dir is still there"
