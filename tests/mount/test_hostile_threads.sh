#!/bin/bash
# timeout: 180
# Clients that make threads of the daemon sleep: a userfaultfd that blocks, an address space that is kept locked. Others are served.
. "$(dirname "$0")/../lib/functions.sh"
need_root
need_fuse
need_userfaultfd
hostile=$TIERFS_BUILD/tests/prog/prog_hostile
chmod 755 "$T"
cp "$hostile" "$T/hostile"

tierfs_start "$T/pool" "$T/mnt" dram=64M,allow_other,min_idle=0.2,uid_connections=256,uid_maps=64
mkdir "$T/mnt/home" "$T/stall"
chown nobody "$T/mnt/home"
nobody=(setpriv --reuid nobody --regid nogroup --clear-groups)

# Memory of somebody else, more than there is DRAM: it needs the fault workers and the demoter.
others_are_served() # NAME
{
	timeout 60 tierctl run "$TIERFS_BUILD/tests/prog/prog_touch" --file "$T/mnt/$1" --size 96M --first-touch --rounds 1
}

note "userfaultfds without O_NONBLOCK, more than there are workers"
start_process "$T/nonblock" "${nobody[@]}" "$T/hostile" nonblock "$T/mnt/home/f" 40
nonblock=$started_pid
wait_for 30 grep -q ready "$T/nonblock" || fail "the client does not get that far: $(cat "$T/nonblock")"
others_are_served one || fail "faults are not resolved any more"
stop_process "$nonblock"

note "an address space that is locked"
start_process "$T/stalled" "$hostile" stall "$T/stall"
stalled=$started_pid
cleanup_push unmount "$T/stall"
wait_for 10 mounted "$T/stall" || fail "no filesystem to wait for: $(cat "$T/stalled")"
start_process "$T/lock" "${nobody[@]}" "$T/hostile" lock "$T/mnt/home/g" 24 "$T/stall/f"
locker=$started_pid
cleanup_push stop_process "$stalled" # first: the client cannot end before
wait_for 60 grep -q stalled "$T/stalled" || fail "the client does not get that far: $(cat "$T/lock" "$T/stalled")"
others_are_served two || fail "room is not made any more"
status=0
timeout 60 tierctl snapshot "$T/mnt/home/g" "$T/mnt/g-snapshot" >/dev/null 2>&1 || status=$?
assert_eq "$status" 1 "exit of a snapshot that cannot write-protect, and does not wait"
grep -q "keeps its address space locked" "$T/tierfs.log" || fail "nobody noticed that it is locked"

note "once it lets go, its memory is like any other"
stop_process "$stalled"
wait_for 30 grep -q free "$T/lock" || fail "the client is still locked"
tierctl demote "$T/mnt/home/g" >/dev/null || fail "demote"
stop_process "$locker"
note "a user who takes all mappings that it gets"
cat >"$T/maps.py" <<'PY'
# Maps a file until that is refused, and once more when one of them is gone: maps.py FILE
import errno, mmap, sys
maps = []
with open(sys.argv[1], "r+b") as file:
    def more():
        try:
            maps.append(mmap.mmap(file.fileno(), 1 << 20))
        except OSError as error:
            return errno.errorcode[error.errno]
    while not (error := more()):
        pass
    print(len(maps), error, flush=True)
    maps.pop().close()
    print(more(), more(), flush=True)
    maps[0][0] = 7
PY
assert_ok truncate -s 1M "$T/mnt/home/maps"
chown nobody: "$T/mnt/home/maps"
for turn in 1 2; do
	"${nobody[@]}" tierctl run -- python3 "$T/maps.py" "$T/mnt/home/maps" >"$T/maps" 2>"$T/maps.err"
	assert_eq "$(cat "$T/maps")" "64 EMFILE"$'\n'"None EMFILE" "what it gets, time $turn"
	grep -q "64 mappings, which is the limit (uid_maps)" "$T/maps.err" || fail "it is not told why: $(cat "$T/maps.err")"
done

note "a user who takes all connections that it gets"
start_process "$T/crowd" "${nobody[@]}" "$T/hostile" crowd "$T/mnt/home" 1100
wait_for 60 grep -q ready "$T/crowd" || fail "the client does not end: $(cat "$T/crowd")"
grep -q "which is the limit" "$T/crowd" || fail "it is not told why: $(cat "$T/crowd")"
crowd=$started_pid
timeout 60 tierctl run "$TIERFS_BUILD/tests/prog/prog_touch" --file "$T/mnt/three" --size 4M --first-touch --rounds 1 || fail "root cannot attach"
timeout 60 setpriv --reuid 1 --regid 1 --clear-groups "$T/hostile" resume "$T/mnt" | grep -q "not the arena" || fail "another user cannot connect"
stop_process "$crowd"
tierfs_stop "$T/mnt"
