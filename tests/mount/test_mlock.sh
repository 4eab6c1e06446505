#!/bin/bash
# timeout: 240
# A program locks far more memory than there is (mlock(2) by itself, no library in the way): it waits, alone. A neighbour works on four times
# the budget as if it were not there.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq

cat >"$T/lock.py" <<'PY'
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
SYS_mlock = 149
print("locks", flush=True)
libc.syscall(SYS_mlock, ctypes.c_void_p(address), ctypes.c_size_t(len(memory)))
PY
[ "$(uname -m)" = x86_64 ] || skip "knows the number of mlock(2) on x86_64 alone"
waits() { [ "$(stat_of "$T/mnt" waiting_faults)" -ge 1 ]; }

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
truncate -s 256M "$T/mnt/locked"
truncate -s 256M "$T/mnt/ram"
start_process "$T/lock.log" tierctl run -- python3 "$T/lock.py" "$T/mnt/locked"
locker=$started_pid
assert_ok wait_for 30 waits
start_process "$T/user.log" tierctl run -- python3 "$TIERFS_SRC/tests/prog/user.py" "$T/mnt/ram"
wait_for 150 gone "$started_pid" || fail "the neighbour waits: $(tierctl stat --json "$T/mnt/ram")"
wait "$started_pid" || fail "the neighbour: exit $? ($(tail -n 3 "$T/user.log"))"
alive "$locker" || fail "who locks has ended: $(cat "$T/lock.log")"
assert_le "$(stat_of "$T/mnt" resident_bytes)" $((64 << 20)) resident_bytes
kill -KILL "$locker"
assert_ok wait_for 30 gone "$locker"

note "pins: half of the budget, and no more"
assert_ok tierctl pin "$T/mnt/ram" --length 32M
assert_status 1 tierctl pin "$T/mnt/locked" --length 1M
assert_match "$out" "memory" "what pin says"
assert_ok tierctl pin --off "$T/mnt/ram"
tierfs_stop "$T/mnt"
