#!/bin/bash
# timeout: 120
# A pool that cannot be served any more when its daemon dies: the holder tries five times and gives the mount up. Who waits gets an
# error, who maps a file SIGBUS, the log says why, and nothing is left that would be in the way of the next mount.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
case ${TIERFS_MODE:-debug} in
asan | tsan) skip "a sanitizer's runtime is the first that may be preloaded" ;;
esac
M=$T/mnt
prog_plain=$TIERFS_BUILD/tests/prog/prog_plain
mkdir "$M"

give_back()
{
	[ ! -d "$T/store" ] || { rm -f "$T/pool/store" && mv "$T/store" "$T/pool/store"; }
	unmount "$M"
	tierfs_forget "$T/pool"
}

LD_PRELOAD=$TIERFS_BUILD/tests/lib/interpose_daemon.so TIERFS_TEST_SYSLOG=$T/syslog tierfs -o dram=64M "$T/pool" "$M" ||
	fail "cannot mount"
cleanup_push give_back
id=$(sed -n 's/^id //p' "$T/pool/pool.conf")
[ -z "${TIERFS_TEST_POOLS:-}" ] || echo "$id" >>"$TIERFS_TEST_POOLS"
run_dir=/run/tierfs/$id
head -c 1M /dev/urandom >"$T/content"
dd if="$T/content" of="$M/file" bs=1M oflag=direct status=none || fail dd
truncate -s 16M "$M/ram" || fail truncate

note "one maps a file, and one reads it"
mkfifo "$T/go"
"$prog_plain" "$M/ram" dirty 65536 hold touch 8388608 <"$T/go" >"$T/mapper" 2>&1 &
mapper=$!
cleanup_push stop_process "$mapper"
exec 7>"$T/go"
wait_for 10 grep -q holding "$T/mapper" || fail "it cannot map: $(cat "$T/mapper")"
start_process "$T/reader" sh -c "while dd if='$M/file' of=/dev/null bs=1M iflag=direct status=none; do :; done"
reader=$started_pid

note "the daemon dies, and the store cannot be opened"
pid=$(daemon_pid)
assert_ok mv "$T/pool/store" "$T/store"
: >"$T/pool/store"
kill -KILL "$pid"
gave_up() { grep -q 'tierfs dies again and again; the mount is dead' "$T/syslog"; }
wait_for 30 gave_up || fail "it does not give up: $(cat "$T/syslog")"
assert_eq "$(grep -c 'process [0-9]* takes over$' "$T/syslog")" 5 "attempts"
assert_eq "$(grep -c 'cannot open the store' "$T/syslog")" 5 "reasons"
wait_for 10 gone "$reader" || fail "the reader hangs"
echo >&7
wait_for 10 gone "$mapper" || fail "the mapper hangs"
status=0
wait "$mapper" || status=$?
assert_eq "$status" $((128 + 7)) "status of the mapper"
assert_status 2 ls "$M"
assert_match "$out" "not connected|onnection abort"

note "nothing is in the way of the next mount"
[ ! -e "$run_dir/holder.sock" ] || fail "the holder's socket is there"
left() { grep -slzxF "TIERFS_TEST_SYSLOG=$T/syslog" /proc/[0-9]*/environ | grep .; }
none_left() { ! left; }
wait_for 10 none_left || fail "processes are left: $(left)"
rm "$T/pool/store"
assert_ok mv "$T/store" "$T/pool/store"
tierfs_start "$T/pool" "$M" dram=64M
dd if="$M/file" of="$T/again" bs=1M iflag=direct status=none || fail dd
assert_same_content "$T/content" "$T/again"
tierfs_stop "$M"
[ ! -e "$run_dir" ] || fail "$run_dir is still there"
