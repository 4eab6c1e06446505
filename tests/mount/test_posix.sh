#!/bin/bash
# What a filesystem owes its users: names, links, directories, attributes, and what persists over a new mount.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
fs=$TIERFS_BUILD/tests/prog/prog_fs
M=$T/mnt

expect() # WANTED-OUTPUT WANTED-STATUS PROG_FS-ARGUMENT...
{
	local wanted=$1 status=$2
	shift 2
	assert_status "$status" "$fs" "$@"
	assert_eq "$out" "$wanted" "$*"
}

tierfs_start "$T/pool" "$M" dram=32M,min_idle=1

note "files without a name"
expect '' 0 scratch "$M" 1048576
assert_eq "$(ls -A "$M")" '' "directory after mkstemp and unlink"

note "kinds of files"
expect EPERM 1 symlink target "$M/symlink"
expect EPERM 1 mknod fifo "$M/fifo"
expect '' 0 mknod file "$M/made"
expect EEXIST 1 mknod file "$M/made"
expect ENOENT 1 unlink "$M/absent"
expect '' 0 mkdir "$M/$(printf 'n%.0s' {1..255})"
expect ENAMETOOLONG 1 mkdir "$M/$(printf 'n%.0s' {1..256})"
rmdir "$M"/nn*

note "directories"
mkdir "$M/d" "$M/d/e" "$M/d/f"
assert_eq "$(stat -c %h "$M/d")" 4 "links of a directory with two below"
expect ENOTEMPTY 1 rmdir "$M/d"
expect EISDIR 1 unlink "$M/d"
expect ENOTDIR 1 rmdir "$M/made"
rmdir "$M/d/f"
assert_eq "$(stat -c %h "$M/d")" 3 "links of a directory with one below"
assert_eq "$(stat -c %i "$M/d/e/..")" "$(stat -c %i "$M/d")" "inode of .."

note "hard links"
expect '' 0 link "$M/made" "$M/d/second"
assert_eq "$(stat -c '%h %i' "$M/made")" "$(stat -c '%h %i' "$M/d/second")" "two names of one file"
assert_eq "$(stat -c %h "$M/made")" 2
expect EEXIST 1 link "$M/made" "$M/d/second"
expect EPERM 1 link "$M/d" "$M/hard-directory"
expect '' 0 rename none "$M/made" "$M/d/second" # two names of one file: nothing happens
assert_eq "$(stat -c %h "$M/made")" 2 "links after a rename onto itself"
rm "$M/made"
assert_eq "$(stat -c %h "$M/d/second")" 1 "links after one was removed"

note "rename"
touch "$M/a" "$M/b"
ino_a=$(stat -c %i "$M/a")
expect EEXIST 1 rename noreplace "$M/a" "$M/b"
expect '' 0 rename noreplace "$M/a" "$M/c"
expect '' 0 rename exchange "$M/b" "$M/c"
assert_eq "$(stat -c %i "$M/b")" "$ino_a" "inode after an exchange"
expect ENOENT 1 rename exchange "$M/b" "$M/absent"
expect ENOENT 1 rename none "$M/absent" "$M/b"
expect EINVAL 1 rename whiteout "$M/b" "$M/w"
expect '' 0 rename none "$M/b" "$M/c"
assert_eq "$(stat -c %i "$M/c")" "$ino_a" "inode after a replacement"
expect EINVAL 1 rename none "$M/d" "$M/d/e/below"
expect EISDIR 1 rename none "$M/c" "$M/d"
expect ENOTDIR 1 rename none "$M/d" "$M/c"
mkdir "$M/g" "$M/h"
touch "$M/h/x"
expect ENOTEMPTY 1 rename none "$M/g" "$M/h"
expect '' 0 rename none "$M/d/e" "$M/g"
assert_eq "$(stat -c %h "$M/d")" 2 "links of the directory that lost one"
expect '' 0 rename exchange "$M/c" "$M/h"
assert_eq "$(stat -c %F "$M/h")" "regular empty file"
assert_eq "$(ls "$M/c")" x "content of an exchanged directory"
expect EINVAL 1 rename exchange "$M/c/x" "$M/c"

note "a directory of 2000 files, listed, listed with attributes, and emptied while it is read"
mkdir "$M/many"
for ((i = 0; i < 2000; i++)); do : >"$M/many/file$i"; done
assert_eq "$(find "$M/many" -mindepth 1 | sort -u | wc -l)" 2000 "names"
# shellcheck disable=SC2012 # ls reads names and attributes in one go
assert_eq "$(ls -l "$M/many" | cut -d' ' -f1 | sort | uniq -c | tr -s ' ')" $' 2000 -rw-------\n 1 total' "modes"
expect 2000 0 prune "$M/many"
rmdir "$M/many"

note "attributes, also over a new mount"
truncate -s 64K "$M/kept"
chown 1234:4321 "$M/kept"
chmod 2751 "$M/kept" # after chown, which clears set-id bits
touch -a -d '2001-02-03 04:05:06.123456789 UTC' "$M/kept"
touch -m -d '1969-12-31 23:59:58.5 UTC' "$M/kept"
mkdir -m 2775 "$M/setgid"
chown :4321 "$M/setgid"
chmod g+s "$M/setgid"
touch "$M/setgid/file"
mkdir "$M/setgid/dir"
assert_eq "$(stat -c %g "$M/setgid/file")" 4321 "group in a setgid directory"
assert_eq "$(stat -c '%g %a' "$M/setgid/dir")" "4321 2755" "directory in a setgid directory"
ln "$M/kept" "$M/setgid/link"
shape() { (cd "$M" && find . -printf '%P %y %i %n %m %U:%G %s %A@ %T@\n' | sort); }
before=$(shape)
newest=$(find "$M" -printf '%i\n' | sort -n | tail -1)
assert_match "$before" 'kept f [0-9]+ 2 2751 1234:4321 65536 981173106.1234567890 -'
tierfs_stop "$M"
tierfs_start "$T/pool" "$M" dram=32M,min_idle=1
assert_eq "$(shape)" "$before" "the tree after a new mount"
touch "$M/newer"
assert_ge "$(stat -c %i "$M/newer")" $((newest + 1)) "inode number of a new file"
tierfs_stop "$M"
