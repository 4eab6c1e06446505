#!/bin/bash
# timeout: 180
# A core dump of a program leaves its attached memory out, cold or not, and does not wait for it: by gcore while it runs on, and by the kernel
# when it ends.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool python3

mib=48
cat >"$T/dumped.py" <<'PY'
import mmap, os, signal, sys
os.chdir(sys.argv[2])
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
own = bytearray(b"memory of its own " * 1000)
mark = bytes(byte ^ 1 for byte in b"`uu`bide!ldlnsx")
for page in range(0, len(memory), 4096):
    memory[page:page + len(mark)] = mark
print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
wrong = sum(memory[page:page + len(mark)] != mark for page in range(0, len(memory), 4096))
print("wrong pages:", wrong, flush=True)
os.abort()
PY
sed -i 's/^import mmap.*/&\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})/' "$T/dumped.py"
ready() { grep -q ready "$T/log"; }
count_in() { grep -aoF -- "$1" "$2" | wc -l; }
without_attached() # DUMP: it has the program's own memory, and of the other no page (the program's own copies of the mark may be there)
{
	assert_ge "$(count_in "memory of its own " "$1")" 1000 "the program's own memory in $1"
	assert_le "$(count_in "attached memory" "$1")" 100 "pages of attached memory in $1"
}

tierfs_start "$T/pool" "$T/mnt" dram=16M,min_idle=0.2
truncate -s ${mib}M "$T/mnt/ram"
mkdir "$T/cores"
ulimit -c unlimited || skip "no core dumps in this process"
start_process "$T/log" tierctl run -- python3 "$T/dumped.py" "$T/mnt/ram" "$T/cores"
wait_for 60 ready || fail "$(cat "$T/log")"
[ "$(stat_of "$T/mnt/ram" cold_bytes)" -ge $((mib / 2 << 20)) ] || fail "nothing is cold"

note "flags of the memory"
flags=$(awk '/^[0-9a-f]+-[0-9a-f]+ / { arena = /\/run\/tierfs\/|\/\.tierfs-arena-/ } arena && /^VmFlags:/' "/proc/$started_pid/smaps")
assert_match "$flags" "VmFlags:.* dd"
[ "$(grep -c . <<<"$flags")" -eq "$(grep -cw dd <<<"$flags")" ] || fail "not all of it is left out of dumps: $flags"

if type -P gcore >/dev/null; then
	timeout 60 gcore -o "$T/cores/gcore" "$started_pid" >"$T/gcore.log" 2>&1 </dev/null
	if [ -f "$T/cores/gcore.$started_pid" ]; then
		without_attached "$T/cores/gcore.$started_pid"
	else
		grep -qE "ptrace|Operation not permitted|Permission" "$T/gcore.log" || fail "gcore: $(cat "$T/gcore.log")"
		note "gcore may not look at processes here: left out"
	fi
else
	note "no gcore on this host: left out"
fi

kill -USR1 "$started_pid"
wait_for 60 gone "$started_pid" || fail "it waits: $(cat "$T/log")"
grep -q "wrong pages: 0" "$T/log" || fail "$(cat "$T/log")"
if [ "$(cat /proc/sys/kernel/core_pattern)" = core ]; then
	dump=$(find "$T/cores" -type f -name 'core*' | head -n 1)
	[ -n "$dump" ] || fail "the kernel wrote no core dump"
	without_attached "$dump"
else
	note "core dumps go elsewhere on this host (core_pattern): left out"
fi
tierfs_stop "$T/mnt"
