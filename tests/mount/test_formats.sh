#!/bin/bash
# timeout: 120
# A pool that the first released format wrote (tests/data/format_1.tar.zst: a tree, holes, a clone, all of it cold) is read,
# changed and read again; a stream of then, whose hashes anybody could aim at, is refused in one line.
. "$(dirname "$0")/../lib/functions.sh"

need_tool zstd

zstd -qdc "$TIERFS_SRC/tests/data/format_1.tar.zst" | tar -xf - -C "$T" || fail "the archive"
for file in pool/pool.conf stream; do
	[ -f "$T/$file" ] || fail "the archive has no $file"
done

text=3af1224c13ef4c953f591a09925c8db6e241d4f4021d2cd2af8b2c04bbaef4ce
pages=a4503d8f10e3ef6361712dfa33f2d5e0ab2afd7257542eeffe48370cbea92404
piece=5cf134dc3b830ddbd388fc213f16ab2f2c39765ea0182f2f09b5d128739590f5

sum()
{
	sha256sum "$T/mnt/$1" | cut -d' ' -f1
}

check_tree() # WHEN
{
	assert_eq "$(cd "$T/mnt" && find . -mindepth 1 -printf '%P %y %m %U:%G %s %n\n' | sort)" "dir d 755 0:0 0 2
dir/clone f 600 0:0 524288 1
dir/link f 600 0:0 524288 2
dir/pages f 600 0:0 524288 2
sparse f 600 0:0 1073741824 1
text f 640 1001:1002 245760 1" "names, $1"
	assert_eq "$(sum text)" "$text" "text, $1"
	assert_eq "$(sum dir/link)" "$pages" "dir/link, $1"
	assert_eq "$(sum dir/clone)" "$pages" "dir/clone, $1"
	assert_eq "$(dd if="$T/mnt/sparse" bs=1M skip=512 count=1 status=none | sha256sum | cut -d' ' -f1)" "$piece" "sparse, $1"
	assert_eq "$(dd if="$T/mnt/dir/pages" bs=512K iflag=direct status=none | sha256sum | cut -d' ' -f1)" "$pages" "direct, $1"
}

tierfs_start "$T/pool" "$T/mnt" dram=16M
check_tree "as it was"

note "a stream of then"
tierctl recv "$T/mnt/received" <"$T/stream" >"$T/out" 2>&1 && fail "an old stream was taken"
assert_eq "$(wc -l <"$T/out")" 1 "lines: $(cat "$T/out")"
grep -q version "$T/out" || fail "does not say why: $(cat "$T/out")"
rm -f "$T/mnt/received"

note "changed, and mounted again"
printf 'other' | dd of="$T/mnt/dir/clone" bs=1 seek=70000 conv=notrunc status=none
cp "$T/mnt/text" "$T/mnt/copy"
tierctl demote "$T/mnt/dir/clone" >"$T/out" 2>&1 || fail "demote: $(cat "$T/out")"
clone=$(sum dir/clone)
[ "$clone" != "$pages" ] || fail "the change is not there"
tierfs_stop "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" dram=16M
assert_eq "$(sum dir/clone)" "$clone" "the changed clone"
assert_eq "$(sum dir/pages)" "$pages" "what it was cloned from"
assert_eq "$(sum copy)" "$text" "the copy"
tierfs_stop "$T/mnt"
