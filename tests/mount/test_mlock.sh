#!/bin/bash
# timeout: 240
# A program locks far more memory than there is. With mlock(2) by itself, past libtierfs, it waits, alone, and a neighbour works on four times
# the budget as if it were not there. Through libtierfs it is told ENOMEM at once, by whatever call; what fits is locked, and the rest of the
# file is used beside it.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq

[ "$(uname -m)" = x86_64 ] || skip "makes mlock(2) of x86_64 alone"
waits() { [ "$(stat_of "$T/mnt" waiting_faults)" -ge 1 ]; }

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
truncate -s 256M "$T/mnt/locked"
truncate -s 256M "$T/mnt/ram"
start_process "$T/lock.log" tierctl run -- python3 "$TIERFS_SRC/tests/prog/lock.py" "$T/mnt/locked"
locker=$started_pid
assert_ok wait_for 30 waits
start_process "$T/user.log" tierctl run -- python3 "$TIERFS_SRC/tests/prog/user.py" "$T/mnt/ram"
wait_for 150 gone "$started_pid" || fail "the neighbour waits: $(tierctl stat --json "$T/mnt/ram")"
wait "$started_pid" || fail "the neighbour: exit $? ($(tail -n 3 "$T/user.log"))"
alive "$locker" || fail "who locks has ended: $(cat "$T/lock.log")"
assert_le "$(stat_of "$T/mnt" resident_bytes)" $((64 << 20)) resident_bytes
kill -KILL "$locker"
assert_ok wait_for 30 gone "$locker"

note "who locked before, and less than there is, goes on in the rest of its memory"
cat >"$T/modest.py" <<'PY'
import ctypes, itertools, mmap, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(24 << 20)) == 0
for turn in itertools.count():
    for page in range(0, len(memory), 4096):
        if turn:
            assert memory[page:page + 16] == b"%016d" % page, page
        memory[page:page + 16] = b"%016d" % page
    print("turn", turn, flush=True)
PY
turns() { grep -sc turn "$T/modest.log"; }
turned() { [ "$(turns)" -ge "$1" ]; }
truncate -s 96M "$T/mnt/modest"
start_process "$T/modest.log" tierctl run -- python3 "$T/modest.py" "$T/mnt/modest"
modest=$started_pid
assert_ok wait_for 60 turned 2
start_process "$T/lock.log" tierctl run -- python3 "$TIERFS_SRC/tests/prog/lock.py" "$T/mnt/locked"
locker=$started_pid
assert_ok wait_for 30 waits
wait_for 60 turned $(($(turns) + 3)) || fail "it waits: $(cat "$T/modest.log") $(tierctl stat --json "$T/mnt/modest")"
kill -KILL "$locker" "$modest"
assert_ok wait_for 30 gone "$locker"
assert_ok wait_for 30 gone "$modest"

note "what a process locks of its own memory takes nothing of the mount's"
cat >"$T/own.py" <<'PY'
import ctypes, mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
memory[0] = 1
own = mmap.mmap(-1, 30 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(own))
assert ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(30 << 20)) == 0
print("locks", flush=True)
time.sleep(1000)
PY
truncate -s 1M "$T/mnt/small"
start_process "$T/own.log" tierctl run -- python3 "$T/own.py" "$T/mnt/small"
own=$started_pid
assert_ok wait_for 30 grep -q locks "$T/own.log"
rm "$T/modest.log"
start_process "$T/modest.log" tierctl run -- python3 "$T/modest.py" "$T/mnt/modest"
modest=$started_pid
wait_for 60 turned 2 || fail "it waits: $(cat "$T/modest.log") $(tierctl stat --json "$T/mnt/modest")"
kill -KILL "$own" "$modest"
assert_ok wait_for 30 gone "$own"
assert_ok wait_for 30 gone "$modest"

note "through the library"
cat >"$T/limit.py" <<'PY'
import ctypes, errno, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
MIB, ENOMEM = 1 << 20, errno.ENOMEM
MAP_LOCKED, MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 0x2000, 1, 2, 4
fd = os.open(sys.argv[1], os.O_RDWR)

def call(name, *args):
    ctypes.set_errno(0)
    function = getattr(libc, name)
    return ctypes.get_errno() if function(*args) else 0

def check(what, got, wanted):
    print(what, got, "bad, not " + str(wanted) if got != wanted else "", flush=True)

def place(mib, length):
    return ctypes.c_void_p(address + mib * MIB), ctypes.c_size_t(length * MIB)

def attach(mib, flags=0):
    try:
        return 0, mmap.mmap(fd, mib * MIB, flags=mmap.MAP_SHARED | flags)
    except OSError as error:
        return error.errno, None

def locked():
    with open("/proc/self/status") as status:
        return [int(line.split()[1]) // 1024 for line in status if line.startswith("VmLck")][0]

_, memory = attach(256)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
check("mlock of all", call("mlock", *place(0, 256)), ENOMEM)
check("mlock2 of all", call("mlock2", *place(0, 256), 1), ENOMEM)
check("syscall of all", call("syscall", 149, *place(0, 256)), ENOMEM)
check("mlockall now", call("mlockall", MCL_CURRENT), ENOMEM)
check("mlockall on fault", call("mlockall", MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT), ENOMEM)
check("MAP_LOCKED of all", attach(256, MAP_LOCKED)[0], ENOMEM)
check("nothing is locked", locked(), 0)
check("mlock 16", call("mlock", *place(8, 16)), 0)
check("the same again", call("mlock", *place(8, 16)), 0)
check("24 with it", call("mlock", *place(0, 24)), 0)
check("and a page", call("mlock", ctypes.c_void_p(address + 24 * MIB), ctypes.c_size_t(1)), ENOMEM)
check("MAP_LOCKED beside it", attach(1, MAP_LOCKED)[0], ENOMEM)
check("locked", locked(), 24)
check("munlock 8", call("munlock", *place(8, 8)), 0)
error, more = attach(8, MAP_LOCKED)
check("MAP_LOCKED in its place", error, 0)
check("locked", locked(), 24)
more.close()
check("what was unmapped", call("mlock", *place(100, 8)), 0)
check("munlockall", call("munlockall"), 0)
check("mlockall later", call("mlockall", MCL_FUTURE), 0)
check("later and too much", attach(25)[0], ENOMEM)
error, more = attach(20)
check("later", error, 0)
check("locked", locked() >= 20, True)
check("and more", call("mlock", *place(0, 8)), ENOMEM)
more.close()
check("munlockall", call("munlockall"), 0)
pid = os.fork()
if not pid:
    os._exit(call("mlockall", MCL_CURRENT))
check("mlockall in a child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
memory.madvise(22)
memory.madvise(23, 0, 256 * MIB)
memory.madvise(23, 200 * MIB, MIB)
check("MAP_POPULATE of all", attach(256, 0x8000)[0], 0)
check("mlock 24", call("mlock", *place(0, 24)), 0)
for turn in range(2):
    for page in range(0, 96 * MIB, 4096):
        if turn and memory[page:page + 16] != b"%016d" % page:
            check("content", page, "?")
        memory[page:page + 16] = b"%016d" % page
print("end")
PY
truncate -s 256M "$T/mnt/limit"
assert_status 0 tierctl run -- python3 "$T/limit.py" "$T/mnt/limit"
assert_match "$out" "end$" "the last line"
grep "bad" <<<"$out" && fail "$out"
assert_match "$out" "tierfs: $T/mnt/limit: cannot be locked: 268435456 bytes would be locked, and 25165824 are the most"
assert_match "$out" "tierfs: $T/mnt/limit: cannot be mapped: cannot be locked .MAP_LOCKED, mlockall.: "
assert_match "$out" "tierfs: memory is not filled beyond what the mount's dram= holds"

note "pins: half of the budget, and no more"
assert_ok tierctl pin "$T/mnt/ram" --length 32M
assert_status 1 tierctl pin "$T/mnt/locked" --length 1M
assert_match "$out" "memory" "what pin says"
assert_ok tierctl pin --off "$T/mnt/ram"
tierfs_stop "$T/mnt"
