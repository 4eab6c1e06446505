#!/bin/bash
# Who may do what: private by default, allow_other with file modes, uid=, gid= and mode=, the runtime directory.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool setpriv
M=$T/mnt
chmod 755 "$T"
if [ "$(stat -c %a "${T%/*}")" = 700 ]; then skip "the test directory cannot be reached by another user"; fi

as_other() # COMMAND...
{
	setpriv --reuid 4242 --regid 4343 --clear-groups "$@"
}

refused() # ERROR-TEXT COMMAND...
{
	local text=$1
	shift
	assert_status 1 as_other "$@"
	assert_match "$out" "$text"
}

note "without allow_other root is alone"
tierfs_start "$T/pool" "$M" dram=32M
(umask 0 && : >"$M/private")
assert_eq "$(stat -c %a "$M/private")" 600 "mode of a new file"
(umask 0 && mkdir "$M/dir")
assert_eq "$(stat -c %a "$M/dir")" 777 "mode of a new directory"
refused 'Permission denied' cat "$M/private"
refused 'Permission denied' cat "$T/pool/pool.conf"
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")
assert_eq "$(stat -c '%a %U' "$T/pool" "$T/pool/store" /run/tierfs "$run_dir" "$run_dir/arena" | tr '\n' ' ')" \
	'700 root 700 root 711 root 711 root 700 root '
assert_match "$(findmnt -no FSTYPE,SOURCE,OPTIONS "$M")" "^fuse.tierfs +$T/pool +rw,nosuid,nodev,noexec,.*default_permissions"
assert_match "$(findmnt -no FSTYPE,OPTIONS "$run_dir/arena")" '^tmpfs +rw,nosuid,nodev,noexec'
tierfs_stop "$M"

note "with allow_other modes decide"
tierfs_start "$T/pool" "$M" dram=32M,allow_other
refused 'Permission denied' cat "$M/private"
refused 'Permission denied' touch "$M/new"
chown 4242 "$M/private"
assert_ok as_other cat "$M/private"
assert_ok as_other touch "$M/dir/theirs"
assert_eq "$(stat -c '%u:%g %a' "$M/dir/theirs")" '4242:4343 600' "a file of another user"
refused 'Operation not permitted' chown 0 "$M/dir/theirs"
refused 'Operation not permitted' chmod 666 "$M/dir"
tierfs_stop "$M"

note "uid, gid, mode"
tierfs_start "$T/pool" "$M" dram=32M,allow_other,uid=4242,gid=77,mode=0640
assert_eq "$(stat -c '%u:%g' "$M")" 4242:77 "owner of the root"
assert_ok as_other touch "$M/new"
touch "$M/roots"
assert_eq "$(stat -c '%u:%g %a' "$M/new" "$M/roots" | tr '\n' ' ')" '4242:77 640 4242:77 640 '
tierfs_stop "$M"
tierfs_start "$T/pool" "$M" dram=32M
assert_eq "$(stat -c '%u:%g' "$M")" 4242:77 "owner of the root, kept"
tierfs_stop "$M"

note "uid and gid of a new pool"
tierfs_start "$T/pool2" "$M" dram=32M,uid=5
assert_eq "$(stat -c '%u:%g' "$M")" 5:0
tierfs_stop "$M"
