#!/bin/bash
# timeout: 120
# Who may list the root of the mount, and make files there, can keep it locked for as long as he likes. Others attach meanwhile: what they are
# given is opened in a directory that nobody can lock, and that the kernel does not forget while there is the mount.
. "$(dirname "$0")/../lib/functions.sh"
need_root
need_fuse
need_userfaultfd

attach() # NAME
{
	start_process "$T/$1.log" tierctl run "$TIERFS_BUILD/tests/prog/prog_rmw" --size 1M --seconds 1 "$T/mnt/$1"
	wait_for 30 gone "$started_pid" || fail "$1: does not end: $(cat "$T/$1.log") $(tail -n 3 "$T/tierfs.log")"
	wait "$started_pid" || fail "$1: $(tail -n 3 "$T/$1.log") $(tail -n 3 "$T/tierfs.log")"
}

doors=$T/mnt/.tierfs-doors
refused() # COMMAND...
{
	"$@" >"$T/refused.log" 2>&1 && fail "not refused: $*"
	assert_match "$(cat "$T/refused.log")" 'Operation not permitted|Permission denied|File exists|No such file|Is a directory|same file'
}
opener() { pgrep -P "$(pgrep -P "$tierfs_pid" -x tierfs-door)" -x tierfs-door; }
is_kept() { [ "$(readlink /proc/"$(opener)"/fd/* | grep -cx /)" = 1 ]; }

tierfs_start "$T/pool" "$T/mnt" dram=32M
truncate -s 1M "$T/mnt/first" "$T/mnt/second"
attach second
[ -d "$doors" ] || skip "the kernel has no FUSE passthrough"

note "nobody lists the directory of doors, or does anything to its name"
mkdir "$T/mnt/directory" || fail "no directory"
refused ls "$doors"
refused touch "$doors/file"
refused mkdir "$doors/directory"
refused stat "$doors/.tierfs-arena-"
refused mkdir "$doors"
refused ln "$T/mnt/first" "$doors"
refused rmdir "$doors"
refused mv -T "$doors" "$T/mnt/elsewhere"
refused mv -T "$T/mnt/directory" "$doors"
refused ln -T "$T/mnt/first" "$doors/first"
refused chmod 777 "$doors"
refused chown nobody "$doors"
assert_eq "$(find "$T/mnt" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | tr '\n' ' ')" "directory first second " "what is in the root"
assert_eq "$(stat -c '%a %u' "$doors")" "700 0" "whose the directory is"

note "the kernel forgets what it can, and the root is locked"
wait_for 30 is_kept || fail "the directory of doors is not kept"
echo 2 >/proc/sys/vm/drop_caches
# The names of the files are known again.
stat "$T/mnt/first" "$T/mnt/second" >/dev/null || fail "the files are not there"
start_process "$T/queue.log" "$TIERFS_BUILD/tests/prog/prog_queue" "$T/mnt"
queue=$started_pid
wait_for 30 grep -q held "$T/queue.log" || fail "the root cannot be locked: $(cat "$T/queue.log")"
start_process "$T/stat.log" stat "$T/mnt/unknown"
looker=$started_pid
cleanup_push stop_process "$queue" # before it, which no signal ends
sleeps() { [ "$(sed 's/.*) //; s/ .*//' "/proc/$looker/stat")" = D ]; }
wait_for 30 sleeps || fail "a name that the kernel does not know can be looked up: $(cat "$T/stat.log")"

note "processes attach while the root is locked"
attach first
attach second
sleeps || fail "the root is locked no more: $(cat "$T/stat.log")"
alive "$queue" || fail "the root is locked no more: $(cat "$T/queue.log")"
stop_process "$queue"

note "who keeps the directory lets it go when the mount goes"
exec 9<"$T/mnt/first"
assert_status 32 umount -i "$T/mnt"
exec 9<&-
assert_ok umount -i "$T/mnt"
wait_for 30 gone "$tierfs_pid" || fail "the daemon stays without a mount"
wait "$tierfs_pid" || fail "the daemon ended with exit $?"
