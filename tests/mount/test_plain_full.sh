#!/bin/bash
# timeout: 240
# A plain mapping on a pool whose disk is full: what the kernel writes back waits, so that the arenas keep to the budget, the log and a figure
# say so, others' system calls are answered, and when there is space again all of it goes on by itself. Nothing is lost.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool jq

cat >"$T/user.py" <<'PY'
import ctypes, mmap, random, sys
libc = ctypes.CDLL(None, use_errno=True)

def write_back(at, length):
    """Has the kernel write back, and asks for nothing to be durable: on a full disk that would be an error, and rightly."""
    if libc.sync_file_range(file.fileno(), ctypes.c_long(at), ctypes.c_long(length), 7):
        sys.exit("sync_file_range: errno %d" % ctypes.get_errno())

source = random.Random(7)
file = open(sys.argv[1], "r+b")
memory = mmap.mmap(file.fileno(), 0)
blocks = [source.randbytes(1 << 20) for _ in range(4)]
for turn in range(2):
    for at in range(0, len(memory), 1 << 20):
        want = (b"%016d" % at) + blocks[at >> 20 & 3][16:-16] + (b"%016d" % (at ^ 0x5a5a5a))
        if turn:
            assert memory[at:at + (1 << 20)] == want, at
        else:
            memory[at:at + (1 << 20)] = want
            write_back(at, 1 << 20)
PY
waits() { [ "$(stat_of "$T/mnt" waiting_writes)" -ge 1 ]; }

mount_tmpfs "$T/disk" size=96M
tierfs_start "$T/disk/pool" "$T/mnt" dram=16M,min_idle=0.2
truncate -s 192M "$T/mnt/ram"
start_process "$T/user.log" python3 "$T/user.py" "$T/mnt/ram"
user=$started_pid
assert_ok wait_for 120 waits
assert_ok wait_for 30 grep -q "plain mappings wrote has to wait" "$T/tierfs.log"
for _ in $(seq 20); do
	assert_le "$(stat_of "$T/mnt" arena_bytes)" $((16 << 20)) "arena_bytes"
	assert_ok ls -l "$T/mnt" >/dev/null
done
alive "$user" || fail "the program has ended: $(cat "$T/user.log")"
note "$(stat_of "$T/mnt" arena_bytes) bytes in arenas, $(stat_of "$T/mnt" waiting_writes) requests wait"
assert_ok mount -o remount,size=2G "$T/disk"
wait_for 120 gone "$user" || fail "it still waits"
wait "$user" || fail "exit $? ($(tail -n 3 "$T/user.log"))"
assert_eq "$(grep -c "are lost" "$T/tierfs.log")" 0 "lost"
tierfs_stop "$T/mnt" 120
