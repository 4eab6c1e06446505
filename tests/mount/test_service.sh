#!/bin/bash
# timeout: 600
# tierfs as a service: the service manager hears when it is ready, keeps its mount over kills and restarts, and forgets it when it is
# unmounted. What it passes that is not a session of this mount is refused in a line.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
need_tool python3
M=$T/mnt
times=$(load_or_long 3 20)
options=dram=64M,min_idle=1
log=$T/manager.log
mkdir "$M"

order() # LINE: for the manager
{
	echo "$*" >>"$T/orders"
}

count_of() # LINE of the manager's log
{
	grep -cxE -- "$1" "$log"
}

service_pid()
{
	sed -n 's/^started //p' "$log" | tail -n 1
}

happened_again() # REGEX COUNT
{
	[ "$(count_of "$1")" -gt "$2" ]
}

service_start()
{
	local ready started
	ready=$(count_of 'told READY=1')
	started=$(count_of 'started .*')
	order start
	wait_for 10 happened_again 'started .*' "$started" || fail "the manager does not start it"
	wait_for 30 happened_again 'told READY=1' "$ready" || fail "the service is not ready: $(tail -n 3 "$T/tierfs.log")"
	stat "$M" >"$T/stat" || fail "the mount does not answer"
}

service_kill() # SIGNAL STATUS
{
	local ended
	ended=$(count_of 'ended .*')
	order kill "$1"
	wait_for 30 happened_again 'ended .*' "$ended" || fail "the service survives signal $1"
	assert_eq "$(sed -n 's/^ended [0-9]* //p' "$log" | tail -n 1)" "$2" "status of the service"
}

# What the daemon has said since the line before which this was called with no argument.
said_from=1
said_since()
{
	said_from=$(($(wc -l <"$T/tierfs.log") + 1))
}

said() # REGEX: once, as a warning
{
	local count
	count=$(tail -n "+$said_from" "$T/tierfs.log" | grep -cE "warning: .*$1")
	[ "$count" -eq 1 ] || fail "'$1' was said $count times: $(tail -n "+$said_from" "$T/tierfs.log")"
	assert_eq "$(tail -n "+$said_from" "$T/tierfs.log" | grep -c 'taken over')" 0 "sessions that were taken over"
}

service_end()
{
	local pid
	pid=$(service_pid)
	unmount "$M"
	wait_for 20 gone "$pid" || kill -KILL "$pid" 2>/dev/null
	tierfs_forget "$T/pool"
}

mkfifo "$T/orders"
: >"$T/tierfs.log"
"$TIERFS_SRC/tests/prog/manager.py" "$T/orders" "$log" sh -c "exec tierfs -f -o '$options' '$T/pool' '$M' 2>>'$T/tierfs.log'" &
manager=$!
cleanup_push stop_process "$manager"
cleanup_push service_end
wait_for 10 test -e "$log" || fail "no manager"

note "it is ready, and its mount is kept without a process of ours"
service_start
[ -z "${TIERFS_TEST_POOLS:-}" ] || sed -n 's/^id //p' "$T/pool/pool.conf" >>"$TIERFS_TEST_POOLS"
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")
kept()
{
	local name
	for name in tierfs-fuse tierfs-init attach.sock access.sock control.sock; do
		[ "$(count_of "stored $name")" = "$1" ] || return 1
	done
}
wait_for 30 kept 1 || fail "not all is kept: $(cat "$log")"
sockets() { stat -c '%n %i' "$run_dir/attach.sock" "$run_dir/access.sock" "$run_dir/control.sock"; }
sockets=$(sockets)
[ ! -e "$run_dir/holder.sock" ] || fail "there is a holder"

note "a plain load; the daemon is killed, and started again"
load_start_plain "$M/ram" --size 128M --threads 2 --seconds 100000
load_progresses 30
for ((i = 1; i <= times; i++)); do
	sleep "0.$((RANDOM % 10))"
	line=$(($(wc -l <"$T/load.log") + 1))
	service_kill 9 -9
	service_start
	load_progresses 60
	sleep 0.6
	note "takeover $i: the longest pause was $(tail -n "+$line" "$T/load.log" |
		sed -n 's/.*slowest *\([0-9]*\)\.[0-9]* ms.*/\1/p' | sort -n | tail -n 1) ms; $(load_ops) operations"
done

note "restarted (SIGQUIT), reloaded (SIGHUP)"
service_kill 3 0
service_start
load_progresses 60
ready=$(count_of 'told READY=1')
order kill 1
wait_for 30 happened_again 'told READY=1' "$ready" || fail "not reloaded: $(tail -n 3 "$T/tierfs.log")"
assert_eq "$(count_of 'told RELOADING=1')" 1 "reloads that were told"
load_progresses 60
service_kill 9 -9
service_start
load_progresses 60
assert_eq "$(grep -c ', taken over$' "$T/tierfs.log")" $((times + 3)) takeovers
kept 1 || fail "it was stored again"
assert_eq "$(sockets)" "$sockets" "files of the sockets"

note "stopped"
kill -TERM "$load_pid"
load_finish 60
load_verify "$M/ram" --direct
service_kill 15 0
for name in tierfs-fuse tierfs-init attach.sock access.sock control.sock; do
	assert_eq "$(count_of "removed $name")" 1 "times that $name was given back"
done
assert_eq "$(count_of 'told STOPPING=1' | sed 's/^[1-9][0-9]*$/some/')" some "stops that were told"
[ ! -e "$run_dir" ] || fail "$run_dir is still there"

note "what is passed and is none of ours"
said_since
order put tierfs-fuse /dev/null
order put tierfs-init /dev/null
service_start
said "is given up"
said_since
kept 2 || fail "the new mount is not kept"
order put whatever /dev/null
order put tierfs-fuse /dev/null
service_kill 9 -9
service_start
assert_eq "$(tail -n "+$said_from" "$T/tierfs.log" | grep -c '2 of 7 descriptors in LISTEN_FDS are not of tierfs')" 1 warnings
assert_eq "$(tail -n "+$said_from" "$T/tierfs.log" | grep -c ', taken over$')" 1 takeovers
service_kill 9 -9
said_since
order drop whatever
order drop attach.sock
order put attach.sock /dev/null
order drop tierfs-init
service_start
said "tierfs-init is missing"
said "attach.sock: the socket that was kept is not used: it is of another type"
assert_eq "$(count_of 'stored attach.sock') $(count_of 'stored access.sock')" "3 2" "sockets that were stored"
load_verify "$M/ram" --direct

note "what the manager keeps is of a mount that is gone"
said_since
service_kill 9 -9
umount -l "$M" || fail "cannot unmount"
service_start
said "(has no mount any more|its mount is gone)"

note "environments that are not meant for it"
service_kill 15 0
said_since
order put tierfs-fuse /dev/null
order env LISTEN_PID 1
service_start
assert_eq "$(tail -n "+$said_from" "$T/tierfs.log" | grep -c 'warning: .*LISTEN')" 0 "words about other people's descriptors"
service_kill 15 0
said_since
order put tierfs-fuse /dev/null
order env LISTEN_FDS many
service_start
said "LISTEN_FDS=many is no number"
service_kill 15 0
order env SYSTEMD_EXEC_PID 1
order start
wait_for 20 mount_answers "$M" || fail "no mount"
[ -e "$run_dir/holder.sock" ] || fail "whom the service manager does not wait for has no holder"
service_kill 15 0

note "from a holder to the service manager"
rm "$T/state"
tierfs_start "$T/pool" "$M" "$options"
load_start_plain "$M/ram2" --size 64M --threads 1 --seconds 100000
load_progresses 30
kill -KILL "$tierfs_pid"
wait "$tierfs_pid" 2>/dev/null
service_start
load_progresses 30
[ ! -e "$run_dir/holder.sock" ] || fail "the holder is still there"
service_kill 9 -9
service_start
load_progresses 30
kill -TERM "$load_pid"
load_finish 60
load_verify "$M/ram2" --direct
service_kill 15 0
order end
wait "$manager"
