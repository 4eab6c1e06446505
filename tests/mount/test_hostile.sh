#!/bin/bash
# timeout: 900
# Clients of two users do for a while what a client can do to hurt: they hold, lie, stall, fill. Beside them a program with a verified load
# finds every word right and goes on, and afterwards the daemon holds nothing of theirs. TIERFS_LONG=1: ten minutes, and the load's longest
# access beside what it was without them. TIERFS_HOSTILE="vast thrash": these things alone.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
need_tool setpriv

seconds=$(load_or_long 20 600)
alone=$(load_or_long 5 60)
turn=$(load_or_long 8 20)
hostile=$TIERFS_BUILD/tests/prog/prog_rough
read -ra things <<<"${TIERFS_HOSTILE:-nonblock stand-still places garbage resume cut vast pins thrash}"

tierfs_start "$T/pool" "$T/mnt" dram=128M,min_idle=0.2,allow_other
chmod 755 "$T"
for uid in 1001 1002; do
	mkdir "$T/mnt/$uid"
	chown $uid:$uid "$T/mnt/$uid"
done

# They may take half of the budget, by memory that they never give back: that is no more than its due to anybody.
note "the load alone, with half of the budget"
assert_ok tierctl set "$T/mnt" dram=64M
load_start "$T/mnt/vm" --size 192M --seconds "$alone" --rate 20000
load_finish $((alone + 60))
assert_ok tierctl set "$T/mnt" dram=128M
alone_ns=$(load_result max_ns)
descriptors=$(find "/proc/$tierfs_pid/fd" -type l | wc -l)
files=$(tierctl ls "$T/mnt" --json | jq '.files | length')

note "the load beside them"
load_start "$T/mnt/vm" --size 192M --seconds "$seconds" --rate 20000
end=$((SECONDS + seconds - 2)) seed=1
while [ $SECONDS -lt $end ]; do
	pids=()
	for uid in 1001 1002; do
		for _ in 1 2; do
			thing=${things[seed % ${#things[@]}]}
			nice -n 15 setpriv --reuid=$uid --regid=$uid --clear-groups -- \
				"$hostile" "$thing" "$T/mnt/$uid/$thing" "$((turn - 2))" $seed >>"$T/hostile.log" 2>&1 &
			pids+=($!)
			cleanup_push stop_process $!
			seed=$((seed + 1))
		done
	done
	before=$(load_ops)
	for pid in "${pids[@]}"; do
		wait_for $((turn + 30)) gone "$pid" || fail "a hostile client does not end: $(tr '\0' ' ' <"/proc/$pid/cmdline")"
	done
	alive "$tierfs_pid" || fail "the daemon is gone: $(tail -n 5 "$T/tierfs.log")"
	load_ops_beyond "$before" || wait_for 10 load_ops_beyond "$before" || gone "$load_pid" || fail "the load stands still: $(tail -n 3 "$T/load.log")"
done
load_finish 90
sort "$T/hostile.log" | uniq -c | sort -rn | head -n 40
note "longest access: $((alone_ns / 1000000)) ms alone, $(($(load_result max_ns) / 1000000)) ms beside them"

note "nothing of theirs is left in the daemon"
few_descriptors()
{
	[ "$(find "/proc/$tierfs_pid/fd" -type l | wc -l)" -le $((descriptors + 2 * ${#things[@]} + 8)) ]
}
wait_for 20 few_descriptors || fail "the daemon keeps descriptors: $(find "/proc/$tierfs_pid/fd" -type l -printf '%l\n' | sed 's/[0-9]\+//g' | sort | uniq -c)"
rm -rf "$T/mnt/1001" "$T/mnt/1002"
assert_eq "$(tierctl ls "$T/mnt" --json | jq '.files | length')" "$files" "files"
tierfs_stop "$T/mnt"
