#!/bin/bash
# timeout: 180
# The mount goes while a process maps a file of it: the process is served to its end, or by the next daemon.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
M=$T/mnt

tierfs_start "$T/pool" "$M" dram=32M,min_idle=1
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")

note "umount says that the mount is busy"
load_start "$M/ram" --size 96M --seconds 8
wait_for 10 load_ops_beyond 1000 || fail "the load does not begin"
assert_status 32 umount -i "$M"
assert_match "$out" 'busy'
load_progresses 30

note "a lazy umount leaves it to the daemon, which goes when the process has gone"
assert_ok umount -il "$M"
load_progresses 30
alive "$tierfs_pid" || fail "the daemon left a process alone"
assert_status 1 tierfs -o dram=32M "$T/pool" "$M"
assert_match "$out" 'in use'
load_finish 60
wait_for 60 gone "$tierfs_pid" || fail "the daemon stays when all are gone"
wait "$tierfs_pid" || fail "the daemon ended with exit $?: $(tail -n 3 "$T/tierfs.log")"
[ ! -e "$run_dir" ] || fail "$run_dir is still there"
tierfs_start "$T/pool" "$M" dram=32M,min_idle=1
load_verify "$M/ram" --direct

note "two signals end the daemon at once, and the next one goes on with the process"
load_start "$M/ram" --size 96M --seconds 8
wait_for 10 load_ops_beyond 1000 || fail "the load does not begin"
kill -TERM "$tierfs_pid"
load_progresses 30
kill -TERM "$tierfs_pid"
wait_for 20 gone "$tierfs_pid" || fail "two signals did not end the daemon"
alive "$load_pid" || fail "the load went with the daemon"

note "a start that fails meanwhile harms nothing"
assert_status 1 tierfs -o dram=32M "$T/pool" "$T/absent"
assert_status 1 tierfs -o dram=32M,level=99 "$T/pool" "$M"
tierfs_start "$T/pool" "$M" dram=32M,min_idle=1
load_progresses 60
load_finish 60
load_verify "$M/ram" --direct
tierfs_stop "$M"
[ ! -e "$run_dir" ] || fail "$run_dir is still there"
