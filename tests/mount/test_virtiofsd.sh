#!/bin/bash
# virtiofsd maps the guest's memory after it shut itself in: a chroot, or namespaces of its own and pivot_root(2); and a
# system-call filter. It gets the memory in both.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq
need_tool python3
for virtiofsd in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd ""; do
	[ -x "$virtiofsd" ] && break
done
[ -n "$virtiofsd" ] || skip "no virtiofsd"

start()
{
	tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
}

said() # FILE TEXT
{
	grep -q "$2" "$1"
}

both_are_back()
{
	[ "$(stat_of "$T/mnt/memory" mappers)" = 2 ]
}

none_is_left()
{
	[ "$(stat_of "$T/mnt/memory" mappers)" = 0 ]
}

start
truncate -s 16M "$T/mnt/memory"
mkdir "$T/share"
for sandbox in chroot namespace; do
	note "$sandbox"
	options=(-f -o source="$T/share" -o sandbox="$sandbox")
	[ "$virtiofsd" = /usr/lib/qemu/virtiofsd ] || options=(--shared-dir="$T/share" --sandbox="$sandbox")
	rm -f "$T/sock" "$T/go"
	mkfifo "$T/go"
	exec 8<>"$T/go"
	tierctl run "$virtiofsd" --socket-path="$T/sock" "${options[@]}" >"$T/virtiofsd" 2>&1 8>&- &
	program=$!
	cleanup_push stop_process "$program"
	wait_for 20 test -S "$T/sock" || fail "$sandbox: $(cat "$T/virtiofsd")"
	tierctl run python3 "$TIERFS_SRC/tests/prog/vhost.py" "$T/sock" "$T/mnt/memory" <"$T/go" >"$T/vhost" 2>&1 8>&- &
	front=$!
	cleanup_push stop_process "$front"
	wait_for 20 said "$T/vhost" mapped || fail "$sandbox: $(cat "$T/vhost" "$T/virtiofsd")"
	assert_eq "$(stat_of "$T/mnt/memory" mappers)" 2 "mappers with sandbox=$sandbox"
	tierfs_crash "$T/mnt"
	start
	wait_for 30 both_are_back || fail "$sandbox: who has the memory does not come to a new daemon: $(cat "$T/virtiofsd")"
	echo >&8
	wait_for 20 gone "$program" || fail "$sandbox: virtiofsd does not end"
	wait_for 20 gone "$front" || fail "$sandbox: who has shared the memory does not end"
	wait_for 20 none_is_left || fail "$sandbox: who has ended counts as a mapper still"
	exec 8>&-
done
tierfs_stop "$T/mnt"
