#!/bin/bash
# timeout: 120
# The daemon is killed: nothing is lost. The host loses power: what was in DRAM is known to be lost, the rest is whole.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
M=$T/mnt

sum() { sha256sum <"$1"; }

fill() # FILE MIB
{
	head -c "${2}M" /dev/urandom >"$T/random"
	cat "$T/random" >"$1"
}

# The memory goes; the disk stays as it is. The test's own stand-in for pulling the plug.
lose_power()
{
	tierfs_crash "$M"
	umount "$run_dir/arena" || fail "cannot unmount the arenas"
}

tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")
fill "$M/clean" 5
clean=$(sum "$M/clean")
tierfs_stop "$M"

note "killed with blocks in DRAM, over the budget and below it, and with a file that has no name any more"
tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
fill "$M/big" 24
fill "$M/small" 3
truncate -s 1G "$M/sparse"
mkdir "$M/dir"
mv "$M/small" "$M/dir/moved"
exec 9<>"$M/gone"
rm "$M/gone"
head -c 1M /dev/urandom >&9
big=$(sum "$M/big") small=$(sum "$M/dir/moved")
tierfs_crash "$M"
exec 9>&-
for round in 1 2 3; do
	tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
	assert_eq "$(sum "$M/big")" "$big" "big file after kill -9, round $round"
	assert_eq "$(sum "$M/dir/moved")" "$small" "small file after kill -9, round $round"
	assert_eq "$(sum "$M/clean")" "$clean" "clean file after kill -9, round $round"
	assert_eq "$(stat -c %s "$M/sparse")" 1073741824 "size of the sparse file"
	assert_eq "$(ls "$M")" $'big\nclean\ndir\nsparse'
	[ "$round" -eq 3 ] || tierfs_crash "$M"
done

note "killed over and over while files are made"
for round in 1 2 3; do
	start_process "$T/maker.log" bash -c "cd '$M'; i=0; while mkdir made$round.\$i; do i=\$((i + 1)); done"
	wait_for 10 test -d "$M/made$round.20" || fail "nothing was made"
	tierfs_crash "$M"
	wait_for 10 gone "$started_pid" || fail "the maker is still there"
	tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
	[ -d "$M/made$round.19" ] || fail "a directory that was made is gone"
done

note "after a clean end all of it is on the disk"
tierfs_stop "$M"
[ ! -e "$run_dir" ] || fail "$run_dir is still there"
tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
assert_eq "$(sum "$M/big")" "$big" "big file after a clean end"

note "loss of power"
head -c 1M /dev/urandom | dd of="$M/dir/moved" bs=1M conv=notrunc status=none
truncate -s 8M "$M/empty-but-sized"
: >"$M/empty"
sync "$M/empty" "$M"
lose_power
tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
assert_eq "$(sum "$M/big")" "$big" "a file that was not changed"
assert_eq "$(sum "$M/clean")" "$clean" "another one"
assert_status 1 cat "$M/dir/moved"
assert_match "$out" 'Input/output error'
assert_match "$(cat "$T/tierfs.log")" '/dir/moved: lost'
grep -q '/big: lost' "$T/tierfs.log" && fail "a clean file is called lost"
assert_eq "$(stat -c %s "$M/dir/moved")" 3145728 "size of the lost file"
assert_status 1 dd if=/dev/zero of="$M/dir/moved" bs=4096 count=1 conv=notrunc status=none
: >"$M/empty" || fail "an empty file is lost"

note "lost stays lost, until it is emptied"
tierfs_stop "$M"
tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
assert_status 1 cat "$M/dir/moved"
truncate -s 0 "$M/dir/moved"
fill "$M/dir/moved" 2
again=$(sum "$M/dir/moved")
tierfs_stop "$M"
tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
assert_eq "$(sum "$M/dir/moved")" "$again" "a file that was lost and written again"

note "a lost file can be removed; a daemon that dies while it finds out changes nothing"
dd if=/dev/urandom of="$M/dir/moved" bs=1M count=1 conv=notrunc status=none
lose_power
tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
tierfs_crash "$M"
tierfs_start "$T/pool" "$M" dram=16M,min_idle=1
assert_status 1 cat "$M/dir/moved"
rm "$M/dir/moved"
[ ! -e "$M/dir/moved" ] || fail "still there"
tierfs_stop "$M"
