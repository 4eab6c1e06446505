#!/bin/bash
# timeout: 180
# A client has the daemon wait in its address space, which it keeps locked, for a request of the attach socket. Others attach meanwhile.
. "$(dirname "$0")/../lib/functions.sh"
need_root
need_fuse
need_userfaultfd
hostile=$TIERFS_BUILD/tests/prog/prog_hostile
chmod 755 "$T"
cp "$hostile" "$T/hostile"

tierfs_start "$T/pool" "$T/mnt" dram=64M,allow_other,min_idle=0.2
mkdir "$T/mnt/home" "$T/stall"
chown nobody "$T/mnt/home"

attaches() # NAME
{
	timeout 60 tierctl run "$TIERFS_BUILD/tests/prog/prog_touch" --file "$T/mnt/$1" --size 4M --first-touch --rounds 1
}

start_process "$T/stalled" "$hostile" stall "$T/stall"
stalled=$started_pid
cleanup_push unmount "$T/stall"
wait_for 10 mounted "$T/stall" || fail "no filesystem to wait for: $(cat "$T/stalled")"
mkfifo -m 666 "$T/go"
start_process "$T/lock" setpriv --reuid nobody --regid nogroup --clear-groups "$T/hostile" lock-map "$T/mnt/home/f" 4 "$T/stall/f" "$T/go"
locker=$started_pid
cleanup_push stop_process "$stalled" # first: the client cannot end before
wait_for 60 grep -q stalled "$T/stalled" || fail "the client does not lock itself: $(cat "$T/lock" "$T/stalled")"
echo >"$T/go"
wait_for 60 grep -q asked "$T/lock" || fail "the client does not get that far: $(cat "$T/lock" "$T/stalled")"

note "others come and go"
attaches one || fail "nobody can attach"
attaches two || fail "nobody can attach any more"
grep -q "is answered" "$T/lock" && fail "its request did not wait, which shows nothing"

note "once it lets go, it is served like any other"
stop_process "$stalled"
wait_for 30 grep -q "is answered" "$T/lock" || fail "the request is not answered: $(cat "$T/lock")"
stop_process "$locker"
attaches three || fail "nobody can attach afterwards"
tierfs_stop "$T/mnt"
