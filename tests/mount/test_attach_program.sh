#!/bin/bash
# What programs do with mappings of RAM files: under tierctl run, call by call, and through the C API without it.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1,allow_other

note "the preload library"
tierctl run "$TIERFS_BUILD/tests/prog/prog_mapping" "$T/mnt/checks" || fail "a mapping does not do what it should"
no_mapper() # FILE
{
	[ "$(stat_of "$1" mappers)" = 0 ]
}
wait_for 10 no_mapper "$T/mnt/checks" || fail "a program that has ended still maps the file"

note "what the program says when it is refused"
truncate -s 1M "$T/mnt/small"
assert_status 1 tierctl run "$TIERFS_BUILD/tests/prog/prog_mapping" "$T/mnt/small" read-only
assert_match "$out" "tierfs: $T/mnt/small: cannot be mapped: the file is open for reading only"

note "the C API, over the budget"
"$TIERFS_BUILD/examples/attach" "$T/mnt/example" || fail "the example"
wait_for 10 no_mapper "$T/mnt/example" || fail "the example has ended and still maps the file"
tierctl demote "$T/mnt/example" >/dev/null || fail demote # the example has read what it discarded: pages of zeros
assert_eq "$(stat_of "$T/mnt/example" hole_bytes)" 1048576 "hole_bytes after tierfs_discard"

note "without privilege"
mkdir "$T/mnt/home"
chown nobody "$T/mnt/home"
cp "$TIERFS_BUILD/examples/attach" "$TIERFS_BUILD/lib/libtierfs.so.1" "$T/"
chmod 755 "$T"
setpriv --reuid nobody --regid nogroup --clear-groups env LD_LIBRARY_PATH="$T" "$T/attach" "$T/mnt/home/example" ||
	fail "the example as an ordinary user"
note "discards after the daemon was killed and started again"
mkfifo "$T/go"
exec 8<>"$T/go"
tierctl run "$TIERFS_BUILD/tests/prog/prog_mapping" "$T/mnt/restart" restart <"$T/go" >"$T/said" 2>&1 8>&- &
program=$!
cleanup_push stop_process "$program"
wait_for 10 grep -q ready "$T/said" || fail "the program does not begin: $(cat "$T/said")"
tierfs_crash "$T/mnt"
tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1,allow_other
echo go >&8
wait_for 30 gone "$program" || fail "the program hangs"
wait "$program" || fail "$(cat "$T/said")"
wait_for 10 no_mapper "$T/mnt/restart" || fail "a program that has ended still maps the file"
tierctl demote "$T/mnt/restart" >/dev/null || fail demote # the program has read what it discarded: blocks of zeros are holes again
assert_eq "$(tierctl map "$T/mnt/restart" --json | jq -c '.runs[1] | [.offset, .length, .state]')" '[16384,32768,"hole"]' "what was discarded"
tierfs_stop "$T/mnt"
