#!/bin/bash
# timeout: 120
# After umount nothing is left running, mounted or listening; after the next mount every file is what it was.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load

fingerprint() # every name, type, mode, owner, size and content
{
	(
		cd "$T/mnt" || exit 1
		find . -printf '%P %y %m %U:%G %s\n' | sort
		find . -type f -print0 | sort -z | xargs -0 -r sha256sum
	)
}

random_file() # FILE PAGES
{
	head -c $(($2 * 4096)) /dev/urandom >"$1"
}

no_socket() # RUN-DIRECTORY
{
	! grep -qF "$1" /proc/net/unix
}

assert_nothing_left() # RUN-DIRECTORY
{
	mounted "$T/mnt" && fail "still mounted"
	[ ! -e "$1" ] || fail "left behind: $(find "$1" | tr '\n' ' ')"
	grep -F " $1" /proc/self/mountinfo && fail "a tmpfs is left"
	# The kernel lets go of what an io_uring held a moment after its process is gone.
	wait_for 30 no_socket "$1" || fail "a socket is left: $(grep -F "$1" /proc/net/unix)"
}

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")
[ -S "$run_dir/control.sock" ] || fail "no control socket in $run_dir"

# Written through a mapping and over the budget, by write, sparse, all zeros, one pattern, odd sizes, deep in directories.
load_start "$T/mnt/ram" --size 128M --seconds 3
load_finish 60
mkdir -p "$T/mnt/dir/below" && chmod 750 "$T/mnt/dir"
random_file "$T/mnt/dir/noise" 1031
random_file "$T/mnt/dir/below/one page" 1
truncate -s 4096 "$T/mnt/empty page"
truncate -s 64M "$T/mnt/sparse"
random_file "$T/noise" 3
dd if="$T/noise" of="$T/mnt/sparse" bs=4096 seek=5001 conv=notrunc status=none
head -c 8M /dev/zero >"$T/mnt/zeros"
yes tierfs! | head -c 8M >"$T/mnt/pattern"
truncate -s 0 "$T/mnt/nothing"
chmod 640 "$T/mnt/pattern"
chown 1234:4321 "$T/mnt/zeros"
mv "$T/mnt/dir/noise" "$T/mnt/dir/moved"
rm "$T/mnt/dir/below/one page"

fingerprint >"$T/first"
tierfs_stop "$T/mnt"
assert_nothing_left "$run_dir"

for round in 1 2; do
	note "mount $round"
	tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
	fingerprint >"$T/again"
	diff "$T/first" "$T/again" || fail "different after mount $round"
	load_verify "$T/mnt/ram" --direct
	tierfs_stop "$T/mnt"
	assert_nothing_left "$run_dir"
done
