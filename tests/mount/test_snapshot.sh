#!/bin/bash
# timeout: 300
# Snapshots and clones: what was cold is shared and not touched, what was resident stays so; each file keeps what it has, whatever
# is written to the others, removed, killed or unmounted; and the space comes back with the last one that uses it.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
M=$T/mnt
times=$(load_or_long 4 30)
mount_tmpfs "$T/disk" size=700M
serve=

figures() # FILE KEY...
{
	local file=$1
	shift
	tierctl stat "$file" --json | jq -c '[.[$ARGS.positional[]]]' --args "$@"
}

store_of() # KEY
{
	tierctl stat "$M" --json | jq ".store.$1"
}

# The virtual machine: maps its file, and writes only while it is told to.
machine_start()
{
	rm -f "$T/commands"
	mkfifo "$T/commands"
	exec 8<>"$T/commands"
	: >"$T/answers"
	tierctl run -- "$PROG_RMW" --state "$T/state" --size 48M --range 0:40M --serve "$M/vm0" <"$T/commands" >>"$T/answers" 2>&1 8>&- &
	serve=$!
	cleanup_push stop_process "$serve"
	wait_for 30 grep -q ready "$T/answers" || fail "no machine: $(cat "$T/answers")"
}

machine() # COMMAND ANSWER
{
	: >"$T/answers"
	echo "$1" >&8
	wait_for 60 grep -aq "$2" "$T/answers" || fail "'$1': $(cat "$T/answers")"
	assert_match "$(grep -a "$2" "$T/answers")" 'wrong 0' "what the machine saw"
}

machine_stop()
{
	echo quit >&8
	wait_for 30 gone "$serve" || fail "the machine does not end"
	wait "$serve" || fail "the machine ended with exit $?"
	exec 8>&-
}

# Bytes to a file of the mount and to its twin outside.
both() # NAME COMMAND...: {} is the file
{
	local name=$1
	shift
	"${@//\{\}/$M/$name}" || fail "$* ($M/$name)"
	"${@//\{\}/$T/ref.$name}" || fail "$* ($T/ref.$name)"
}

change() # NAME: as a program without a mapping does
{
	head -c 3M /dev/urandom >"$T/bytes"
	both "$1" dd if="$T/bytes" of={} bs=64K seek=$((RANDOM % 500)) conv=notrunc status=none
	both "$1" dd if="$T/bytes" of={} bs=4K seek=$((RANDOM % 8000)) count=50 conv=notrunc status=none
	head -c 100 "$T/bytes" >"$T/few"
	both "$1" dd if="$T/few" of={} bs=1000 seek=$((RANDOM % 40000)) conv=notrunc status=none
	dd if="$T/bytes" of="$M/$1" bs=64K seek=3 count=7 oflag=direct conv=notrunc status=none || fail "direct write"
	dd if="$T/bytes" of="$T/ref.$1" bs=64K seek=3 count=7 conv=notrunc status=none
	both "$1" fallocate -p -o $((RANDOM % 40))M -l 1M {}
	both "$1" fallocate -p -o $((RANDOM * 1000)) -l 50000 {}
}

same() # NAME...: as their twins
{
	local name
	for name; do
		cmp "$M/$name" "$T/ref.$name" || fail "$name"
		dd if="$M/$name" bs=1M iflag=direct status=none | cmp - "$T/ref.$name" || fail "$name, read with O_DIRECT"
	done
}

whole_life() # OPTIONS
{
	note "a machine with cold, resident and pattern blocks and holes ($1)"
	tierfs_start "$T/disk/pool" "$M" "$1"
	machine_start
	machine "run 2" ran
	machine "verify" verified
	tierctl demote "$M/vm0" --length 24M >/dev/null || fail "demote"
	assert_ge "$(stat_of "$M/vm0" cold_bytes)" 1000000 "cold bytes"
	assert_ge "$(stat_of "$M/vm0" resident_bytes)" 1000000 "resident bytes"
	before=$(figures "$M/vm0" promotions demotions resident_bytes cold_bytes hole_bytes mappers)
	gets=$(store_of get_blocks)
	disk=$(store_of disk_bytes)
	cp "$T/state" "$T/state.snap"
	tierctl snapshot "$M/vm0" snap --json >"$T/made" || fail "snapshot"
	note "$(tr -d '\n' <"$T/made")"
	assert_eq "$(figures "$M/vm0" promotions demotions resident_bytes cold_bytes hole_bytes mappers)" "$before" "figures after the snapshot"
	assert_eq "$(store_of get_blocks)" "$gets" "values that the snapshot read"
	assert_eq "$(jq .size_bytes "$T/made")" $((48 << 20)) "size of the snapshot"
	[[ $1 == *warm* ]] || # what was warm goes to the store
		assert_le "$(($(store_of disk_bytes) - disk))" "$(($(jq .stored_bytes "$T/made") + (8 << 20)))" "growth of the store"
	assert_eq "$(stat -c %a "$M/snap")" 400 "mode of the snapshot"
	assert_eq "$(figures "$M/snap" resident_bytes promotions)" "[0,0]" "figures of the snapshot"
	assert_ge "$(stat_of "$M/snap" shared_bytes)" "$(jq .shared_bytes "$T/made")" "shared bytes"

	note "the machine goes on, and so do two clones, and a clone of one"
	machine "run 1" ran
	"$PROG_RMW" --state "$T/state" --direct-write --range 0:40M --seconds 1 "$M/vm0" || fail "direct writes"
	load_verify_snap
	tierctl clone "$M/snap" "$M/a" >/dev/null || fail "clone"
	tierctl clone "$M/snap" "$M/b" >/dev/null || fail "clone"
	for name in snap a b; do
		cp "$M/snap" "$T/ref.$name"
	done
	same snap a b
	change a
	same snap a b
	tierctl clone "$M/a" c >/dev/null || fail "clone of a clone"
	cp "$T/ref.a" "$T/ref.c"
	same a c
	change a
	change b
	change c
	truncate -s 20M "$M/c" && truncate -s 20M "$T/ref.c" && truncate -s 48M "$M/c" && truncate -s 48M "$T/ref.c"
	tierctl demote "$M" >/dev/null || fail "demote"
	same snap a b c
	change c
	same snap a b c
	tierctl promote "$M/b" >/dev/null || fail "promote"
	same b
	machine verify verified
	load_verify_snap

	note "a mapping of a clone, moved, sent and received"
	mv "$M/b" "$M/moved" && mv "$T/ref.b" "$T/ref.moved"
	same moved
	tierctl send "$M/moved" | tierctl recv "$M/received" || fail "send"
	cp "$T/ref.moved" "$T/ref.received"
	same received
	tierctl clone "$M/snap" mapped >/dev/null || fail "clone"
	cp "$T/state.snap" "$T/state.mapped"
	tierctl run -- "$PROG_RMW" --state "$T/state.mapped" --seconds 2 "$M/mapped" || fail "a load on a clone"
	"$PROG_RMW" --state "$T/state.mapped" --verify-only --direct "$M/mapped" || fail "a clone after a load"
	load_verify_snap

	note "unmounted and mounted; then they go, the parents first"
	machine_stop
	tierfs_stop "$M"
	tierfs_start "$T/disk/pool" "$M" "$1"
	same snap a c moved received
	"$PROG_RMW" --state "$T/state" --verify-only --direct "$M/vm0" || fail "the machine's memory after a mount"
	"$PROG_RMW" --state "$T/state.mapped" --verify-only --direct "$M/mapped" || fail "a clone after a mount"
	rm "$M/vm0"
	same snap a c moved received
	rm -f "$M/snap"
	same a c moved received
	rm "$M/a"
	tierfs_crash "$M"
	tierfs_start "$T/disk/pool" "$M" "$1"
	same c moved received
	rm "$M/moved" "$M/received" "$M/mapped"
	same c
	tierctl clone "$M/c" d >/dev/null || fail "clone"
	rm "$M/c"
	cp "$T/ref.c" "$T/ref.d"
	same d
	rm "$M/d"
	tierfs_stop "$M"
	tierfs_start "$T/disk/pool" "$M" "$1"
	assert_le "$(store_of disk_bytes)" $((8 << 20)) "bytes in the store of an empty mount"
	tierfs_stop "$M"
	rm -rf "$T"/ref.* "$T"/state* "$T/disk/pool"
}

load_verify_snap()
{
	"$PROG_RMW" --state "$T/state.snap" --verify-only --direct "$M/snap" || fail "the snapshot"
}

whole_life dram=256M,min_idle=0.1
whole_life dram=256M,min_idle=0.1,warm=32M

note "a later demotion writes nothing; a snapshot of what is cold stores nothing"
tierfs_start "$T/disk/pool" "$M" dram=64M,min_idle=1
head -c 8M /dev/urandom >"$M/f"
tierctl snapshot "$M/f" s >/dev/null || fail "snapshot"
puts=$(store_of put_blocks)
tierctl demote "$M/f" >/dev/null || fail "demote"
assert_eq "$(stat_of "$M/f" resident_bytes)" 0 "resident bytes"
assert_eq "$(tierctl clone "$M/f" g --json | jq .stored_bytes)" 0 "bytes stored by a clone of what is cold"
assert_eq "$(store_of put_blocks)" "$puts" "blocks put"
assert_eq "$(tierctl map "$M/g" --json)" "$(tierctl map "$M/f" --json | sed 's#/f"#/g"#')" "ages of a clone"

note "what cannot be"
assert_status 1 tierctl snapshot "$M/f" s
assert_match "$out" "^tierctl: $M/s: cannot be made: File exists$"
assert_status 1 tierctl clone "$M/f" "$T/outside"
assert_match "$out" 'not in the same mount'
assert_status 1 tierctl clone "$M" x
assert_match "$out" 'not a RAM file'
assert_status 1 tierctl clone "$T/tierfs.log" x
assert_match "$out" 'not in a tierfs mount'
assert_status 1 tierctl clone "$M/none" x
assert_match "$out" 'No such file'
head -c 8M /dev/urandom >"$M/full"
fallocate -l "$(($(df -B1 --output=avail "$T/disk" | tail -1) - (1 << 20)))" "$T/disk/filler" || fail "filler"
assert_status 1 tierctl snapshot "$M/full" x
assert_match "$out" 'No space left on device'
assert_eq "$(wc -l <<<"$out")" 1 "lines of the error"
rm "$T/disk/filler"
assert_eq "$(echo "$M"/*)" "$M/f $M/full $M/g $M/s" "files after errors"
wait_for 20 tierctl snapshot "$M/full" x || fail "no snapshot although there is room again"
cmp "$M/full" "$M/x" || fail "a snapshot after a full disk"
echo more >>"$M/x" 2>/dev/null
rm -f "$M"/*

note "killed at any moment, $times times"
head -c 20M /dev/urandom >"$M/base"
truncate -s 24M "$M/base"
tierctl demote "$M/base" --length 10M >/dev/null || fail "demote"
cp "$M/base" "$T/ref.base"
cat >"$T/worker" <<-END
	cd "$M"
	i=0
	while :; do
		i=\$((i + 1))
		tierctl snapshot base s.\$i >/dev/null 2>&1
		tierctl clone s.\$i c.\$i >/dev/null 2>&1
		[ ! -s c.\$i ] || head -c 64K /dev/zero | dd of=c.\$i bs=64K seek=\$((RANDOM % 380)) conv=notrunc status=none
		rm -f s.\$((i - 1)) c.\$((i - 2))
		echo \$i >>"$T/turns"
	done
END
: >"$T/turns"
start_process "$T/worker.log" bash "$T/worker"
worker=$started_pid
for ((i = 1; i <= times; i++)); do
	turns=$(wc -l <"$T/turns")
	sleep "0.$((RANDOM % 10))"
	kill -KILL "$tierfs_pid"
	wait "$tierfs_pid" 2>/dev/null
	tierfs_start "$T/disk/pool" "$M" dram=64M,min_idle=1
	wait_for 60 eval "[ \$(wc -l <'$T/turns') -gt $((turns + 1)) ]" || fail "the worker stands still: $(cat "$T/worker.log")"
done
kill -KILL "$worker"
wait_for 10 gone "$worker"
tierfs_crash "$M"
tierfs_start "$T/disk/pool" "$M" dram=64M,min_idle=1
cmp "$M/base" "$T/ref.base" || fail "the parent of what was being made"
for file in "$M"/s.*; do
	[ ! -s "$file" ] || cmp "$file" "$T/ref.base" || fail "a snapshot after the kills"
done
for file in "$M"/c.*; do # as the parent, but for 64K of zeros
	[ ! -s "$file" ] || [ "$(cmp -l "$file" "$T/ref.base" | awk '$2 != 0 { n++ } { m++ } END { print n + 0 }')" -eq 0 ] ||
		fail "a clone after the kills"
done
note "$(wc -l <"$T/turns") turns; $(find "$M" -name '[sc].*' | wc -l) files left"
rm -f "$M"/[sc].*
tierfs_stop "$M"
tierfs_start "$T/disk/pool" "$M" dram=64M,min_idle=1
assert_le "$(store_of disk_bytes)" $((48 << 20)) "bytes in the store with the parent alone"
cmp "$M/base" "$T/ref.base" || fail "the parent, alone"

note "the host goes down: a file that is lost has no snapshot, and a snapshot is not lost with its file"
echo new | dd of="$M/base" conv=notrunc status=none
tierctl snapshot "$M/base" kept >/dev/null || fail "snapshot"
cp "$M/kept" "$T/ref.kept"
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/disk/pool/pool.conf")
tierfs_crash "$M"
umount "$run_dir/arena" || fail "cannot unmount the arenas"
tierfs_start "$T/disk/pool" "$M" dram=64M,min_idle=1
cmp "$M/kept" "$T/ref.kept" || fail "a snapshot after a loss of power"
assert_status 1 tierctl snapshot "$M/base" x
assert_match "$out" 'lost'
[ ! -e "$M/x" ] || fail "something is left of a snapshot that failed"
tierctl clone "$M/kept" again >/dev/null || fail "clone"
cmp "$M/again" "$T/ref.kept" || fail "a clone of what was kept"
tierfs_stop "$M"
