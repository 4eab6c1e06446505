#!/bin/bash
# timeout: 300
# The daemon dies between a change of names and its answer, for each kind of change. The next one answers what the first would have: the
# program sees success, the change is there once, and what would fail when done twice does not.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool python3
case ${TIERFS_MODE:-debug} in
asan | tsan) skip "a sanitizer's runtime is the first that may be preloaded" ;;
esac
interpose=$TIERFS_BUILD/tests/lib/interpose_daemon.so
M=$T/mnt

# Numbers of linux/fuse.h
declare -A opcode=([unlink]=10 [rmdir]=11 [mknod]=8 [mkdir]=9 [link]=13 [rename2]=45 [create]=35 [rename]=12)

resend_works() # the kernel repeats requests since 6.9
{
	local major minor
	IFS=.- read -r major minor _ < <(uname -r)
	[ "$major" -gt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -ge 9 ]; }
}
resend_works || skip "needs a kernel that repeats requests (Linux 6.9)"

names=() # of everything that there shall be afterwards: name, inode, links

assert_names() # WHAT
{
	assert_eq "$(find "$M" -mindepth 1 -printf '%P %i %n\n' | sort)" "$(printf '%s\n' "${names[@]}" | sort)" "$1"
}

# Runs a command against a daemon that dies before it answers that request, and starts the next.
dies_at() # OPERATION COMMAND...
{
	local operation=$1 client
	shift
	note "$operation"
	LD_PRELOAD=$interpose TIERFS_TEST_DIE=${opcode[$operation]} tierfs_start "$T/pool" "$M" dram=32M
	"$@" >"$T/out" 2>&1 &
	client=$!
	cleanup_push stop_process "$client"
	wait_for 20 gone "$tierfs_pid" || fail "the daemon does not die at $operation"
	wait "$tierfs_pid" 2>/dev/null
	alive "$client" || fail "the program did not wait: $(cat "$T/out")"
	tierfs_start "$T/pool" "$M" dram=32M
	wait_for 20 gone "$client" || fail "the program hangs"
	wait "$client" || fail "$operation failed: $(cat "$T/out")"
	assert_names "names after $operation"
	tierfs_stop "$M"
	tierfs_start "$T/pool" "$M" dram=32M
	assert_names "names in the store after $operation"
	tierfs_stop "$M"
}

# renameat2(2), exclusive creation and the like, without programs that look first
py() # EXPRESSION
{
	python3 -c "import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags):
        raise OSError(ctypes.get_errno(), 'renameat2')
os.chdir('$M')
$1"
}

mkdir "$M"
names=('a 2 1')
dies_at create py "os.open('a', os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)"
names+=('b 3 1')
dies_at mknod py "os.mknod('b')"
names+=('d 4 2')
dies_at mkdir py "os.mkdir('d')"
names=('a 2 2' 'b 3 1' 'd 4 2' 'd/a 2 2')
dies_at link py "os.link('a', 'd/a')"
names=('a 3 1' 'b 2 2' 'd 4 2' 'd/a 2 2')
dies_at rename2 py "rename('a', 'b', 2)"
names=('a 2 2' 'b 3 1' 'd 4 2' 'd/a 2 2')
dies_at rename2 py "rename('b', 'a', 2)"
names=('b 3 1' 'c 2 2' 'd 4 2' 'd/a 2 2')
dies_at rename py "rename('a', 'c', 0)"
names=('a 3 1' 'c 2 2' 'd 4 2' 'd/a 2 2')
dies_at rename2 py "rename('b', 'a', 1)"
names=('c 3 1' 'd 4 2' 'd/a 2 1')
dies_at rename py "rename('a', 'c', 0)"
names=('c 3 1' 'd 4 2')
dies_at unlink py "os.unlink('d/a')"
names=('c 3 1')
dies_at rmdir py "os.rmdir('d')"

note "twice in a row, and many at once"
LD_PRELOAD=$interpose TIERFS_TEST_DIE=${opcode[rename2]} tierfs_start "$T/pool" "$M" dram=32M
mkdir "$M/x" "$M/y"
: >"$M/x/from"
: >"$M/y/from"
clients=()
for dir in x y; do
	py "os.mknod('$dir/to')
a, b = os.stat('$dir/from').st_ino, os.stat('$dir/to').st_ino
rename('$dir/from', '$dir/to', 2)
assert (os.stat('$dir/from').st_ino, os.stat('$dir/to').st_ino) == (b, a)" >"$T/out.$dir" 2>&1 &
	clients+=("$!")
	cleanup_push stop_process "$!"
done
for try in 1 2 3; do
	wait_for 20 gone "$tierfs_pid" || fail "the daemon does not die"
	wait "$tierfs_pid" 2>/dev/null
	if [ "$try" -lt 3 ]; then
		LD_PRELOAD=$interpose TIERFS_TEST_DIE=${opcode[rename2]} tierfs -f -o dram=32M "$T/pool" "$M" \
			>>"$T/tierfs.log" 2>&1 </dev/null &
		tierfs_pid=$!
	fi
done
tierfs_start "$T/pool" "$M" dram=32M
for client in "${clients[@]}"; do
	wait_for 20 gone "$client" || fail "a program hangs"
	wait "$client" || fail "a program failed: $(cat "$T"/out.?)"
done
tierfs_stop "$M"
