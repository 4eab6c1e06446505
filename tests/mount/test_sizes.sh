#!/bin/bash
# A RAM file may have any size: programs that write small pieces, sparse archives, truncate up and down, and random
# operations do on a mount what they do on a tmpfs; also after a new mount, and after the daemon was killed.
# timeout: 300
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool python3
need_tool tar
M=$T/mnt
R=$T/ref
options=dram=32M,block=16K,min_idle=1

same() # WHAT: the mount and the tmpfs hold the same
{
	local name

	for name in "$R"/*; do
		[ -f "$name" ] || continue
		cmp "$name" "$M/${name##*/}" || fail "$1: ${name##*/} differs"
		assert_eq "$(stat -c %s "$M/${name##*/}")" "$(stat -c %s "$name")" "$1: size of ${name##*/}"
	done
}

again() # WHAT: the same after a kill, and after a new mount
{
	same "$1"
	tierfs_crash "$M"
	tierfs_start "$T/pool" "$M" "$options"
	same "$1, after kill -9"
	tierfs_stop "$M"
	tierfs_start "$T/pool" "$M" "$options"
	same "$1, after a new mount"
}

both() # COMMAND...: with each directory as the working directory
{
	local at

	for at in "$R" "$M"; do
		(cd "$at" && "$@") || fail "in $at: $*"
	done
}

mount_tmpfs "$R" size=256M
tierfs_start "$T/pool" "$M" "$options"
head -c 3000017 /dev/urandom >"$T/data"
truncate -s 2000003 "$T/sparse"
head -c 70001 /dev/urandom | dd of="$T/sparse" bs=1 seek=400000 conv=notrunc iflag=fullblock status=none
head -c 5001 /dev/urandom | dd of="$T/sparse" bs=1 seek=1990000 conv=notrunc iflag=fullblock status=none

note "pieces of all sizes"
from_pipe() { cat <"$T/data" | cat >piped; }
appended() { for i in 1 2 3 4 5 6 7; do echo "line $i of a log" >>appended; done; }
both from_pipe
both appended
both dd if="$T/data" of=dd512 bs=512 status=none
both dd if="$T/data" of=dd1000 bs=1000 status=none
both dd if="$T/data" of=dd1000 bs=1000 count=11 seek=100 conv=notrunc status=none
both dd if="$T/data" of=direct bs=64K oflag=direct status=none
both cp "$T/data" cp
again "pieces"

note "archives and sparse files"
tar -C "$T" -cf "$T/plain.tar" data sparse
tar -C "$T" -cSf "$T/sparse.tar" data sparse
both tar -xf "$T/plain.tar"
same "tar -x"
both rm data sparse
both tar -xSf "$T/sparse.tar"
both cp --sparse=always "$T/sparse" cp-sparse
assert_le "$(stat -c %b "$M/cp-sparse")" 400 "a sparse copy takes no room for its holes"
again "archives"
back() { rm -rf "$T/back" && mkdir "$T/back" && tar -C "$M" -cSf - data sparse cp-sparse | tar -C "$T/back" -xSf -; }
back || fail "tar -S of files on the mount"
assert_same_content "$T/back/data" "$T/data"
assert_same_content "$T/back/sparse" "$T/sparse"
assert_same_content "$T/back/cp-sparse" "$T/sparse"
if command -v rsync >/dev/null; then
	both rsync -S "$T/sparse" rsync
	same "rsync -S"
	assert_ok rsync -S "$M/sparse" "$T/back/rsync"
	assert_same_content "$T/back/rsync" "$T/sparse"
else
	note "no rsync on this host: left out"
fi

note "truncate"
for size in 1 5000 4095 100000 99999 8192 8191 16385 0 7; do
	both truncate -s $size cut
	both dd if="$T/data" of=cut bs=3 count=1 seek=1 conv=notrunc status=none
	same "cut to $size"
done
again "truncate"

note "ftruncate of an empty file allocates nothing"
truncate -s 1000000007 "$M/empty"
assert_eq "$(stat_of "$M/empty" resident_bytes)" 0
assert_eq "$(stat_of "$M/empty" size_bytes)" 1000000007
rm "$M/empty"

note "the tail of the last page"
tail_test() # ATTACHED-OR-PLAIN PROGRAM...
{
	local kind=$1
	shift
	rm -f "$M/tail"
	"$@" python3 "$TIERFS_SRC/tests/prog/sizes.py" tail "$M/tail" || fail "tail of a file that is mapped $kind"
}
tail_test attached tierctl run
tail_test plain

note "random operations"
seed=${TIERFS_SEED:-$RANDOM}
note "TIERFS_SEED=$seed"
for kind in attached plain; do
	[ $kind = plain ] && run=() || run=(tierctl run)
	"${run[@]}" python3 "$TIERFS_SRC/tests/prog/sizes.py" random "$M/random" "$R/random" $((seed++)) ||
		fail "random operations, mapped $kind"
	again "random operations, mapped $kind"
done

note "streams"
tierctl send "$M/random" 2>/dev/null | tierctl recv "$M/received" >/dev/null || fail "recv"
cmp "$M/received" "$R/random" || fail "what was received differs"
assert_eq "$(tierctl map "$M/received" --json | python3 -c 'import json,sys; print(sum(r["length"] for r in json.load(sys.stdin)["runs"]))')" \
	"$(stat -c %s "$R/random")" "runs of the map"
tierctl clone "$M/random" "$M/cloned" >/dev/null || fail "clone"
cmp "$M/cloned" "$R/random" || fail "the clone differs"

note "memcached keeps its small file beside its memory"
if command -v memcached >/dev/null; then
	stop() { kill -USR1 "$1" && wait_for 30 gone "$1"; }
	served() { [ -S "$T/socket" ]; }
	for _ in 1 2; do
		start_process "$T/memcached" tierctl run memcached -u root -e "$M/memory" -m 64 -s "$T/socket"
		wait_for 60 served || fail "memcached: $(cat "$T/memcached")"
		stop "${started_pid:?}" || fail "memcached does not end"
		rm -f "$T/socket"
		[ -s "$M/memory.meta" ] || fail "memcached left no state"
		assert_ne $(($(stat -c %s "$M/memory.meta") % 4096)) 0 "size of its state"
	done
fi
