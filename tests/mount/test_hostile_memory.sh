#!/bin/bash
# timeout: 180
# Clients that never answer a zap, so that nothing of what they touch can be demoted: all of them together keep half of the budget
# at most, however quick they are, and whoever comes afterwards has the other half.
. "$(dirname "$0")/../lib/functions.sh"
need_root
need_fuse
need_userfaultfd
need_tool jq

tierfs_start "$T/pool" "$T/mnt" dram=64M,allow_other,min_idle=0.2
chmod 755 "$T"
pids=()
for uid in 1001 1002 1003; do
	mkdir "$T/mnt/$uid"
	chown $uid:$uid "$T/mnt/$uid"
	setpriv --reuid=$uid --regid=$uid --clear-groups -- "$TIERFS_BUILD/tests/prog/prog_rough" thrash "$T/mnt/$uid/f" 150 >>"$T/thrash" 2>&1 &
	pids+=($!)
	cleanup_push stop_process $!
done

held_bytes()
{
	local sum=0
	for uid in 1001 1002 1003; do
		sum=$((sum + $(tierctl stat "$T/mnt/$uid/f" --json | jq .resident_bytes)))
	done
	echo $sum
}
hold_their_part()
{
	[ "$(held_bytes)" -ge $((20 << 20)) ]
}
wait_for 60 hold_their_part || fail "they do not get what they may have: $(held_bytes), $(cat "$T/thrash")"

note "more memory than there is, by who answers"
timeout 90 tierctl run "$TIERFS_BUILD/tests/prog/prog_touch" --file "$T/mnt/vm" --size 96M --first-touch --rounds 1 || fail "it does not get room"
assert_le "$(held_bytes)" $((42 << 20)) "bytes of those who do not answer" # half, and what was on its way

for pid in "${pids[@]}"; do
	stop_process "$pid"
done
tierfs_stop "$T/mnt"
