#!/bin/bash
# timeout: 180
# A program that has its memory attached maps the file privately as well, another one copies it by sendfile, and blocks are demoted:
# mmap waits, with the memory map locked, for a page that is being read, and a demotion needs that memory map. Nobody may wait for ever.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
ways=${PROG:-$TIERFS_BUILD/tests/prog/prog_ways}
[ -x "$ways" ] || fail "$ways is not built"
connections=/sys/fs/fuse/connections

# If it hangs nothing else ends it, kill -9 included.
abort_mount() # DEVICE
{
	local minor=$((($1 & 0xff) | ($1 >> 12 & 0xfff00)))
	[ -e "$connections/$minor/abort" ] && echo 1 >"$connections/$minor/abort"
	return 0
}

[ -e "$connections" ] || skip "needs $connections"
if ! mounted "$connections"; then
	mount -t fusectl fusectl "$connections" || skip "needs fusectl"
	cleanup_push umount "$connections"
fi
tierfs_start "$T/pool" "$T/mnt" dram=16M,min_idle=0.1
device=$(stat -c %d "$T/mnt")
truncate -s 32M "$T/mnt/ram"
start_process "$T/send" "$ways" "$T/mnt/ram" send 0
senders=("$started_pid")
start_process "$T/send" "$ways" "$T/mnt/ram" send $((16 << 20))
senders+=("$started_pid")
start_process "$T/remap" tierctl run -- "$ways" "$T/mnt/ram" remap 200
remap=$started_pid
if ! wait_for 120 gone "$remap"; then
	cat "/proc/$remap/task"/*/stack >&2 2>/dev/null
	abort_mount "$device"
	wait_for 20 gone "$remap"
	fail "they wait for each other"
fi
wait "$remap" || fail "remap: $(cat "$T/remap")"
for pid in "${senders[@]}"; do
	stop_process "$pid"
done
note "$(tierctl stat "$T/mnt/ram" --json | grep -o '"demotions": *[0-9]*') beside them"
tierfs_stop "$T/mnt"
