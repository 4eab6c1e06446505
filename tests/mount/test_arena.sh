#!/bin/bash
# timeout: 180
# What a client can do to the memory of a RAM file beside using it. Where the kernel has FUSE passthrough it is given nothing that can be
# filled, cut or made longer. What it makes by an unregistered mapping, or on other kernels by the arena itself, is taken away; who goes on
# with that is named and killed. Others keep their memory and their budget meanwhile, and the file its content.
. "$(dirname "$0")/../lib/functions.sh"
need_root
need_fuse
need_userfaultfd

chmod 755 "$T"
cp "$TIERFS_BUILD/tests/prog/prog_arena" "$T/client"
# No function: what is started in the background would be a child of that, and stay when it is stopped.
as_nobody=(setpriv --reuid nobody --regid nogroup --clear-groups)
nobody=$(id -u nobody)

used_kib() { df -k --output=used "$run_dir/arena" | tail -n 1; }
below() { [ "$(used_kib)" -le "$1" ]; } # KIB
file_of_nobody() # NAME SIZE: cold content that nobody can compress
{
	truncate -s "$2" "$T/mnt/home/$1" || fail "cannot make $1"
	head -c "$2" /dev/urandom | dd of="$T/mnt/home/$1" bs=1M oflag=direct conv=notrunc iflag=fullblock status=none || fail "cannot write $1"
	chown nobody "$T/mnt/home/$1"
	chmod 600 "$T/mnt/home/$1"
}
begin()
{
	tierfs_start "$T/pool" "$T/mnt" dram=32M,allow_other,min_idle=0.2
	run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")
	mkdir -p "$T/mnt/home"
	start_process "$T/neighbour.log" tierctl run "$TIERFS_BUILD/tests/prog/prog_rmw" --size 48M --seconds 20 "$T/mnt/neighbour"
	neighbour=$started_pid
	wait_for 30 is_attached "$T/mnt/neighbour" || fail "the neighbour does not begin: $(cat "$T/neighbour.log")"
}
is_attached() { [ "$(stat_of "$1" mapping)" = attached ]; }
# An arena that is not there is none.
has_its_length() # NAME
{
	local arena
	arena=$run_dir/arena/$(stat -c %i "$T/mnt/home/$1")
	[ ! -e "$arena" ] || [ "$(stat -c %s "$arena")" = "$(stat -c %s "$T/mnt/home/$1")" ]
}
# What goes on is ended, and the file is as it was.
is_cut_off() # NAME MODE [BYTES]
{
	local before
	: >"$T/client.log"
	before=$(dd if="$T/mnt/home/$1" bs=1M iflag=direct status=none | sha256sum)
	start_process "$T/client.log" "${as_nobody[@]}" "$T/client" "$T/mnt/home/$1" "${@:2}"
	wait_for 30 grep -q made "$T/client.log" || fail "the client makes no memory: $(cat "$T/client.log")"
	wait_for 30 gone "$started_pid" || fail "it goes on: $(tail -n 5 "$T/tierfs.log")"
	wait "$started_pid"
	assert_eq "$?" 137 "exit status of who makes memory"
	assert_match "$(cat "$T/tierfs.log")" "of memory were made behind the daemon's back .*process [0-9]+ of user $nobody maps it"
	assert_match "$(cat "$T/tierfs.log")" "of user $nobody maps it, and is killed because this goes on"
	wait_for 30 below $((40 << 10)) || fail "$(used_kib) KiB stay in the arenas"
	[ "$(stat_of "$T/mnt/home/$1" foreign_bytes)" -gt 0 ] || fail "nothing is told by stat"
	wait_for 30 has_its_length "$1" || fail "the arena has another length than the file"
	assert_eq "$(dd if="$T/mnt/home/$1" bs=1M iflag=direct status=none | sha256sum)" "$before" "the content of $1"
}
# Whoever it was, the memory goes, and the file is as it was.
comes_to_nothing() # NAME MODE
{
	local before
	before=$(dd if="$T/mnt/home/$1" bs=1M iflag=direct status=none | sha256sum)
	start_process "$T/client.log" "${as_nobody[@]}" "$T/client" "$T/mnt/home/$1" "$2"
	found() { gone "$started_pid" || [ "$(stat_of "$T/mnt/home/$file" foreign_bytes)" -gt 0 ]; }
	file=$1
	wait_for 30 found || fail "nobody finds what it makes: $(cat "$T/client.log")"
	stop_process "$started_pid"
	wait_for 30 below $((40 << 10)) || fail "$(used_kib) KiB stay in the arenas"
	wait_for 30 has_its_length "$1" || fail "the arena has another length than the file"
	assert_eq "$(dd if="$T/mnt/home/$1" bs=1M iflag=direct status=none | sha256sum)" "$before" "the content of $1"
}
finish()
{
	wait "$neighbour" || fail "the neighbour: $(tail -n 3 "$T/neighbour.log")"
	tierfs_stop "$T/mnt"
	: >"$T/tierfs.log"
}

begin
file_of_nobody small 1M
file_of_nobody ram 96M
if [ "$(stat_of "$T/mnt/neighbour" passthrough_mappers)" -gt 0 ]; then
	note "with passthrough: what a client is given"
	"${as_nobody[@]}" "$T/client" "$T/mnt/home/small" refused >"$T/client.log" || fail "not refused: $(cat "$T/client.log")"
	note "with passthrough: a stranger's mapping"
	one_stranger=$(python3 -c 'import mmap,os,sys; mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 4096)' "$T/mnt/neighbour" 2>&1) &&
		fail "a stranger can map what is attached"
	assert_match "$one_stranger" "No such device"
	note "with passthrough: memory that is not registered"
	is_cut_off ram touch
	note "with passthrough: memory of which nobody knows that it is mapped"
	comes_to_nothing ram keep
else
	note "this kernel has no passthrough"
fi
finish

note "without passthrough"
export TIERFS_PASSTHROUGH=no
begin
assert_eq "$(stat_of "$T/mnt/neighbour" passthrough_mappers)" 0 "mappers by passthrough"
is_cut_off ram touch
is_cut_off small grow $((256 << 20))
finish
