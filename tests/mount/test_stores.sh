#!/bin/bash
# timeout: 300
# Several stores in a pool: told, refused, and files that move from one to another, by name, by directory, under a load, over kills of
# the daemon, and while one of the devices is full or not there.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
need_tool mkfs.ext4 losetup

make_disk() # NAME SIZE: a filesystem of its own on a loop device, at $T/NAME
{
	truncate -s "$2" "$T/$1.img"
	mkfs.ext4 -q -m 0 "$T/$1.img" || fail "cannot make a filesystem"
	mkdir "$T/$1"
	mount -o loop "$T/$1.img" "$T/$1" || skip "cannot mount a loop device"
	cleanup_push unmount "$T/$1"
}

store_of() { stat_of "$1" store; }
at_rest() { [ "$(stat_of "$1" store_from)" = null ]; }
is_at() { [ "$(store_of "$1")" = "$2" ] && at_rest "$1"; } # FILE STORE
under_way() { ! at_rest "$1" && [ "$(stat_of "$1" store_moved_bytes)" -gt "$2" ]; } # FILE BYTES
stored_in() { tierctl stat "$T/mnt" --json | jq --arg name "$1" --arg key "$2" '.stores[] | select(.name == $name)[$key]'; } # STORE KEY
sum() { sha256sum <"$1"; }
fill() { head -c "$2" /dev/urandom >"$1"; } # FILE SIZE
# What is resident goes to the store, so that a read comes from there.
go_cold() { tierctl demote "$1" >/dev/null || fail "cannot demote $1"; }

make_disk slow 768M
make_disk tiny 100M
M=$T/mnt
options=dram=64M,min_idle=1

note "what is no store of the pool is refused"
mkdir "$T/foreign"
touch "$T/foreign/file"
refused() # PATTERN OPTION
{
	assert_status 1 tierfs -f -o "$options,$2" "$T/pool" "$M"
	assert_match "$out" "$1" "message of $2"
	assert_eq "$(printf '%s\n' "$out" | grep -c "^tierfs: option")" 1 "errors of $2"
}
mkdir "$M"
refused 'option store\.x=.*/foreign: is neither empty nor a store of a tierfs pool' "store.x=$T/foreign"
[ -e "$T/foreign/tierfs-store" ] && fail "something was made there"
refused 'option store\.X: a store has a name of' "store.X=$T/slow"
refused "option store\.default: is the pool's own" "store.default=$T/slow"
refused 'option store\.x: the directory must be named from /' store.x=slow
refused 'option store\.x: needs a value' store.x
refused 'option warm=4M: must be at least 4M for each of the 2 stores' "warm=4M,store.x=$T/slow"

note "a pool with two stores more"
all=$options,store.slow=$T/slow/store,store.tiny=$T/tiny
tierfs_start "$T/pool" "$M" "$all"
assert_eq "$(tierctl get "$M" store.slow)" "store.slow=$T/slow/store"
assert_eq "$(tierctl get "$M" store)" store=default
assert_eq "$(tierctl stat "$M" --json | jq -c '[.stores[].name]')" '["default","slow","tiny"]'
fill "$M/a" 20M
a=$(sum "$M/a")
one_line '.*: set.*: store: none-such: the pool has no such store.*|.*store: none-such: .*' tierctl set "$M/a" store=none-such
assert_eq "$(tierctl set "$M/a" store=slow)" store=slow
wait_for 30 is_at "$M/a" slow || fail "it does not move: $(tierctl stat "$M/a")"
go_cold "$M/a"
assert_eq "$(sum "$M/a")" "$a" "content of a file that moved"
assert_ge "$(stored_in slow disk_bytes)" 20000000 "bytes on the other device"
assert_eq "$(tierctl get "$M/a" store)" store=slow
assert_match "$(tierctl ls "$M")" 'STORE.*slow' "ls"

note "a directory's holds for what is below it, and for what comes there and goes"
mkdir "$M/dir"
fill "$M/dir/old" 3M
tierctl set "$M/dir" store=slow >/dev/null || fail "set"
fill "$M/dir/new" 3M
assert_eq "$(store_of "$M/dir/new")" slow "store of a new file"
at_rest "$M/dir/new" || fail "a new file is not where it is to be"
mv "$M/dir/new" "$M/new"
wait_for 30 is_at "$M/new" default || fail "what left the directory does not move"
mv "$M/new" "$M/dir/new"
wait_for 30 is_at "$M/dir/new" slow || fail "what came to the directory does not move"
wait_for 30 is_at "$M/dir/old" slow || fail "what was there does not move"
tierctl set "$M/dir/old" store=default >/dev/null
wait_for 30 is_at "$M/dir/old" default || fail "a file's own store does not count"
tierctl set "$M/dir/old" store=none >/dev/null
wait_for 30 is_at "$M/dir/old" slow || fail "that of the directory does not count again"

note "a clone begins where its source is"
tierctl clone "$M/a" "$M/clone" >/dev/null || fail "clone"
assert_eq "$(sum "$M/clone")" "$a" "content of a clone"
wait_for 30 is_at "$M/clone" default || fail "a clone does not go where its share says"
go_cold "$M/clone"
assert_eq "$(sum "$M/clone")" "$a" "content of a clone that moved"
rm "$M/clone"

note "one that does not fit stops on the way, the rest goes on, and it can go back"
fill "$M/big" 120M
big=$(sum "$M/big")
go_cold "$M/big"
tierctl set "$M/big" store=tiny >/dev/null
failed() { [ "$(stat_of "$M/big" store_error)" = "No space left on device" ]; }
wait_for 60 failed || fail "no word of a full device: $(tierctl stat "$M/big")"
assert_eq "$(sum "$M/big")" "$big" "content half way"
fill "$M/dir/more" 5M
go_cold "$M/dir/more"
assert_eq "$(stored_in slow full)" false "another store"
tierctl set "$M/big" store=default >/dev/null
wait_for 60 is_at "$M/big" default || fail "it does not come back: $(tierctl stat "$M/big")"
assert_eq "$(sum "$M/big")" "$big" "content after the way back"
rm "$M/big"

note "to and fro under a load, and over kills of the daemon"
rm -f "$T/state"
load_start "$M/dir/ram" --size 256M --threads 2 --pattern 0 --seconds 100000
load_progresses 30
cold_enough() { [ "$(stat_of "$M/dir/ram" cold_bytes)" -gt 100000000 ]; }
wait_for 60 cold_enough || fail "it does not fill up"
# Slow enough to be met on its way.
tierctl set "$M/dir/ram" cold.write_bps=40M >/dev/null || fail "set"
caught=0
for ((i = 1; i <= 5; i++)); do
	[ "$((i % 2))" -eq 0 ] && to=slow || to=default
	tierctl set "$M/dir/ram" store="$to" >/dev/null || fail "set"
	! wait_for 10 under_way "$M/dir/ram" $((i * 20000000)) || caught=$((caught + 1))
	note "kill $i: on the way to $to, $(stat_of "$M/dir/ram" store_moved_bytes) of $((256 << 20)) bytes have come"
	kill -KILL "$tierfs_pid"
	wait "$tierfs_pid" 2>/dev/null
	umount -l "$M" 2>/dev/null
	tierfs_start "$T/pool" "$M" "$all"
	load_progresses 60
done
assert_ge "$caught" 3 "kills on the way"
tierctl set "$M/dir/ram" cold.write_bps=none >/dev/null || fail "set"
wait_for 60 is_at "$M/dir/ram" default || fail "it never arrives: $(tierctl stat "$M/dir/ram")"
tierctl set "$M/dir/ram" store=none >/dev/null
wait_for 60 is_at "$M/dir/ram" slow || fail "it never arrives: $(tierctl stat "$M/dir/ram")"
# shellcheck disable=SC2154 # set by load_start
kill -TERM "$load_pid"
load_finish 120
load_verify "$M/dir/ram" --direct
assert_ge "$(tierctl stat "$M" --json | jq .store.traffic.move.written_bytes)" 1000000 "bytes that moved"

note "a warm part for each"
go_cold "$M/a"
tierfs_stop "$M"
tierfs_start "$T/pool" "$M" "$all,warm=24M"
assert_eq "$(sum "$M/a")" "$a"
fill "$M/dir/warm" 4M
warm=$(sum "$M/dir/warm")
go_cold "$M/dir/warm"
kill -KILL "$tierfs_pid"
wait "$tierfs_pid" 2>/dev/null
umount -l "$M" 2>/dev/null
tierfs_start "$T/pool" "$M" "$all,warm=24M"
tierctl set "$M/dir/warm" store=default >/dev/null
wait_for 30 is_at "$M/dir/warm" default || fail "warm values do not move"
assert_eq "$(sum "$M/dir/warm")" "$warm"
tierctl set "$M/dir/warm" store=none >/dev/null
wait_for 30 is_at "$M/dir/warm" slow || fail "they do not come back"
load_verify "$M/dir/ram" --direct

note "without a store that has files: they give EIO, the others go on; nothing is taken for empty"
tierfs_stop "$M"
tierfs_start "$T/pool" "$M" "$options"
assert_match "$(cat "$T/tierfs.log")" 'store slow is not here, and [0-9]+ files'
assert_status 1 cat "$M/a"
assert_match "$out" 'Input/output error'
assert_eq "$(tierctl stat "$M/a" --json | jq -c '[.store, .store_here, .lost]')" '["slow",false,false]'
assert_match "$(tierctl ls "$M/a")" 'slow \(not here\) +no store'
assert_status 1 dd if=/dev/zero of="$M/a" bs=64k count=1 conv=notrunc status=none
assert_status 1 truncate -s 0 "$M/a"
fill "$M/dir/later" 1M
later=$(sum "$M/dir/later")
go_cold "$M/dir/later"
assert_eq "$(sum "$M/dir/later")" "$later" "a new file, which begins in the pool's own store"
assert_eq "$(stat_of "$M" stores | jq -c '[.[] | [.name, .here]]')" '[["default",true],["slow",false],["tiny",false]]'
fill "$M/other" 2M
other=$(sum "$M/other")
go_cold "$M/other"
assert_eq "$(sum "$M/other")" "$other"
one_line '.*store: slow: is not here.*' tierctl set "$M/other" store=slow
assert_match "$(tierctl doctor "$M")" 'warn .*: stores: slow'
tierfs_stop "$M"
unmount "$T/slow"
tierfs_start "$T/pool" "$M" "$all"
assert_match "$(cat "$T/tierfs.log")" 'slow/store: the store that the pool knows by that name is not there; is its disk mounted\?'
[ -e "$T/slow/store" ] && fail "a store was made where the disk is not mounted"
assert_status 1 cat "$M/a"
tierfs_stop "$M"
mount -o loop "$T/slow.img" "$T/slow" || fail "cannot mount the disk again"
tierfs_start "$T/pool" "$M" "$all"
assert_eq "$(sum "$M/a")" "$a" "content when the store is back"
load_verify "$M/dir/ram" --direct
wait_for 30 is_at "$M/dir/later" slow || fail "what began without its store does not go there"
assert_eq "$(sum "$M/dir/later")" "$later"

note "nothing of a known store is made anew: not its database, and not one that has no files; the mount goes on"
tierfs_stop "$M"
mv "$T/slow/store/store" "$T/slow/store-away"
mv "$T/tiny/tierfs-store" "$T/slow/tierfs-store-away"
tierfs_start "$T/pool" "$M" "$all"
assert_match "$(cat "$T/tierfs.log")" 'store.slow=.*the store that the pool knows by that name is not there'
assert_match "$(cat "$T/tierfs.log")" 'store.tiny=.*the store that the pool knows by that name is not there'
[ -e "$T/slow/store/store" ] && fail "an empty database was made"
[ -e "$T/tiny/tierfs-store" ] && fail "a new store was made"
assert_status 1 cat "$M/a"
assert_match "$out" 'Input/output error'
tierfs_stop "$M"
sed 's/^token .*/token 00000000000000000000000000000000/' "$T/slow/tierfs-store-away" >"$T/tiny/tierfs-store"
mkdir "$T/slow/store/store" # without what makes it a database
tierfs_start "$T/pool" "$M" "$all"
assert_match "$(cat "$T/tierfs.log")" 'store.tiny=.*is not the store that the pool knows by that name'
assert_match "$(cat "$T/tierfs.log")" 'slow/store/store: cannot open the store'
assert_status 1 cat "$M/a"
tierfs_stop "$M"
rm -r "$T/slow/store/store"
mv "$T/slow/store-away" "$T/slow/store/store"
mv "$T/slow/tierfs-store-away" "$T/tiny/tierfs-store"
tierfs_start "$T/pool" "$M" "$all"
assert_eq "$(sum "$M/a")" "$a" "content when all of the store is back"

note "a store of another pool is refused"
tierfs_stop "$M"
mkdir "$T/mnt2"
assert_status 1 tierfs -f -o "$options,store.slow=$T/slow/store" "$T/pool2" "$T/mnt2"
assert_match "$out" 'is a store of another pool'
assert_status 1 tierfs -f -o "$options,store.tiny=$T/slow/store" "$T/pool" "$M"
assert_match "$out" 'is another store of this pool'
