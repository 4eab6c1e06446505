#!/bin/bash
# timeout: 180
# A program that is stopped, by SIGSTOP or in a frozen cgroup, cannot answer, and gives its memory back all the same when others need it;
# what it had is there when it goes on.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq

is_at_most() { [ "$(stat_of "$1" "$2")" -le "$3" ]; }
compares() { [ "$(grep -sc "compared, wrong: 0" "$T/$1.log")" -ge "$2" ]; }
wrong() { grep -q "compared, wrong: [1-9]" "$T"/*er.log; }
MIB=$((1 << 20))

cat >"$T/keeper.py" <<'PY'
# Fills a file's memory, says so, and compares it over and over: keeper.py FILE
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
for page in range(0, len(memory), 4096):
    memory[page:page + 16] = b"%016d" % page
print("filled", flush=True)
while True:
    wrong = sum(memory[page:page + 16] != b"%016d" % page for page in range(0, len(memory), 4096))
    print("compared, wrong:", wrong, flush=True)
PY
tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
grep -q "pages that a device writes into cannot be seen" "$T/tierfs.log" && skip "this host does not show which pages are pinned"
truncate -s 48M "$T/mnt/kept"
truncate -s 128M "$T/mnt/other"

stop() { kill -STOP "$1"; }
go_on() { kill -CONT "$1"; }

gives_back() # stops the keeper by stop(), and lets it go on by go_on()
{
	local keeper other before

	rm -f "$T/keeper.log" "$T/other.log"
	start_process "$T/keeper.log" tierctl run -- python3 "$T/keeper.py" "$T/mnt/kept"
	keeper=$started_pid
	wait_for 60 compares keeper 3 || fail "it does not fill it: $(cat "$T/keeper.log")"
	assert_ge "$(stat_of "$T/mnt/kept" resident_bytes)" $((32 * MIB)) "what it has"
	stop "$keeper"
	start_process "$T/other.log" tierctl run -- python3 "$T/keeper.py" "$T/mnt/other"
	other=$started_pid
	wait_for 60 is_at_most "$T/mnt/kept" resident_bytes $((4 * MIB)) ||
		fail "a stopped program keeps $(stat_of "$T/mnt/kept" resident_bytes) bytes: $(tail -n 3 "$T/tierfs.log")"
	wait_for 60 compares other 1 || fail "the other one waits: $(tierctl stat --json "$T/mnt/other")"
	kill -KILL "$other"
	before=$(grep -c compared "$T/keeper.log")
	go_on "$keeper"
	wait_for 60 compares keeper $((before + 3)) || fail "it does not go on: $(tail -n 3 "$T/keeper.log")"
	wrong && fail "what it had: $(grep compared "$T/keeper.log" | sort | uniq -c)"
	kill -KILL "$keeper"
	wait_for 30 gone "$keeper" || fail "it stays"
}

note "SIGSTOP"
gives_back

thaw() { echo "$2" >"$1"; } # FILE VALUE
frozen() { [ "$(cat "$group/$1")" = "$2" ]; }

freeze_by() # TYPE FILE: makes a cgroup of that type, which that file freezes
{
	local root

	root=$(awk -v type="$1" '$0 ~ " - " type { print $5; exit }' /proc/self/mountinfo)
	group=$root/tierfs-test.$$
	{ [ -n "$root" ] && mkdir "$group" 2>/dev/null; } || return 1
	cleanup_push rmdir "$group"
	[ -w "$group/$2" ]
}

if freeze_by "cgroup [^ ]* .*freezer" freezer.state; then
	note "frozen by a cgroup of version 1"
	stop()
	{
		cleanup_push thaw "$group/freezer.state" THAWED # before it is waited for
		echo "$1" >"$group/cgroup.procs" && echo FROZEN >"$group/freezer.state" && assert_ok wait_for 30 frozen freezer.state FROZEN
	}
	go_on() { thaw "$group/freezer.state" THAWED; }
	gives_back
fi
if freeze_by "cgroup2 " cgroup.freeze; then
	note "frozen by a cgroup of version 2"
	stop()
	{
		cleanup_push thaw "$group/cgroup.freeze" 0
		echo "$1" >"$group/cgroup.procs" && echo 1 >"$group/cgroup.freeze"
	}
	go_on() { thaw "$group/cgroup.freeze" 0; }
	gives_back
fi
tierfs_stop "$T/mnt"
