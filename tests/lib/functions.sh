# Functions for test scripts (bash). A script begins with
#
#	. "$(dirname "$0")/../lib/functions.sh"
#
# and gets: $T, a private directory; build/MODE/bin and sbin in front of PATH; a cleanup stack that runs on every exit. Under
# tests/run.sh the directory is checked and removed there; a script started by hand makes and removes its own.
# shellcheck shell=bash
set -u
export LC_ALL=C

TIERFS_SRC=${TIERFS_SRC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
TIERFS_BUILD=${TIERFS_BUILD:-$TIERFS_SRC/build/debug}
case $TIERFS_BUILD in
/*) ;;
*) TIERFS_BUILD=$PWD/$TIERFS_BUILD ;;
esac
export TIERFS_SRC TIERFS_BUILD
export PATH=$TIERFS_BUILD/bin:$TIERFS_BUILD/sbin:$PATH:/usr/sbin:/sbin

# --- the end of a test ---

note() # TEXT
{
	printf '%s\n' "-- $*"
}

fail() # TEXT: ends the test
{
	printf 'FAILED: %s\n' "$*" >&2
	local i
	for ((i = 1; i < ${#FUNCNAME[@]}; i++)); do
		printf '  at %s line %s\n' "${BASH_SOURCE[i]##*/}" "${BASH_LINENO[i - 1]}" >&2
	done
	exit 1
}

skip() # REASON: ends the test
{
	skip_reason=$*
	exit 77
}

# Commands that undo what was done, run in reverse order on exit. Each is a command and its arguments.
cleanup_commands=()
skip_reason=

cleanup_push() # COMMAND [ARGUMENT...]
{
	cleanup_commands+=("$(printf '%q ' "$@")")
}

cleanup_run()
{
	local status=$? i
	trap - EXIT
	set +e
	cd /
	for ((i = ${#cleanup_commands[@]} - 1; i >= 0; i--)); do
		eval "${cleanup_commands[i]}"
	done
	[ -z "$skip_reason" ] || printf '%s\n' "$skip_reason" # the last line of the output
	exit "$status"
}

# A bind mount that a test left below would be emptied too, and --one-file-system does not see one of the same disk.
remove_directory() # DIRECTORY
{
	if grep -qF " $1/" /proc/self/mountinfo; then
		printf 'not removed, something is mounted below: %s\n' "$1" >&2
		return
	fi
	rm -rf --one-file-system "$1"
}

trap cleanup_run EXIT
trap 'exit 143' INT TERM HUP

T=${TIERFS_TEST_DIR:-}
if [ -z "$T" ]; then
	T=$(mktemp -d "${TMPDIR:-/tmp}/tierfs-test.XXXXXX") || exit 1
	cleanup_push remove_directory "$T"
fi

# --- what a test needs ---

need_root()
{
	[ "$(id -u)" -eq 0 ] || skip "needs root"
}

need_tool() # PROGRAM...
{
	local tool
	for tool in "$@"; do
		command -v "$tool" >/dev/null 2>&1 || skip "needs $tool"
	done
}

need_fuse()
{
	[ -w /dev/fuse ] || skip "needs /dev/fuse"
}

need_userfaultfd()
{
	[ -e /dev/userfaultfd ] || skip "needs /dev/userfaultfd (Linux 6.1)"
}

# --- checks ---

assert_eq() # GOT WANTED [WHAT]
{
	[ "$1" = "$2" ] || fail "${3:-value}: got '$1', wanted '$2'"
}

assert_ne() # GOT UNWANTED [WHAT]
{
	[ "$1" != "$2" ] || fail "${3:-value}: got '$1', which is wrong"
}

assert_le() # GOT LIMIT [WHAT]
{
	[ "$1" -le "$2" ] || fail "${3:-value}: got $1, limit $2"
}

assert_ge() # GOT LEAST [WHAT]
{
	[ "$1" -ge "$2" ] || fail "${3:-value}: got $1, wanted at least $2"
}

assert_match() # TEXT PATTERN [WHAT]: an extended regular expression
{
	[[ $1 =~ $2 ]] || fail "${3:-text}: '$1' does not match '$2'"
}

assert_ok() # COMMAND...
{
	local status=0
	"$@" || status=$?
	[ "$status" -eq 0 ] || fail "exit $status: $*"
}

# One byte of a file becomes another one, whatever it was.
change_byte() # FILE OFFSET
{
	local byte
	byte=$(od -An -tu1 -j "$2" -N 1 "$1") || fail "cannot read $1"
	printf '%b' "\\x$(printf '%02x' $((byte ^ 0x55)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none || fail "cannot write $1"
}

# Succeeds if the command fails with that status. Its output is left in $out.
assert_status() # STATUS COMMAND...
{
	local wanted=$1 status=0
	shift
	out=$("$@" 2>&1) || status=$?
	[ "$status" -eq "$wanted" ] || fail "exit $status, wanted $wanted: $* ($out)"
}

one_line() # PATTERN TIERCTL-COMMAND...: fails with exactly one line that matches
{
	local pattern=$1
	shift
	assert_status 1 "$@"
	assert_match "$out" "^tierctl: $pattern\$" "message of $*"
	assert_eq "$(printf '%s\n' "$out" | wc -l)" 1 "lines of the message of $*"
}

assert_same_content() # FILE FILE
{
	cmp "$1" "$2" || fail "$1 and $2 differ"
}

# Polls until the command succeeds.
wait_for() # SECONDS COMMAND...
{
	local deadline=$(($(date +%s%N) + $1 * 1000000000))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s%N)" -lt "$deadline" ] || return 1
		sleep 0.05
	done
}

# --- processes and mounts of the test ---

alive() # PID: neither gone nor a zombie
{
	local state
	state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null)
	[ -n "$state" ] && [ "$state" != Z ]
}

gone() # PID
{
	! alive "$1"
}

# Ends a process that this test has started: TERM, then KILL after 10 s.
stop_process() # PID
{
	alive "$1" || return 0
	kill -TERM "$1" 2>/dev/null
	wait_for 10 gone "$1" || kill -KILL "$1" 2>/dev/null
	wait "$1" 2>/dev/null
	return 0
}

# Starts a command in the background; its pid is in $started_pid, its output in FILE. Ended on exit.
start_process() # FILE COMMAND...
{
	local output=$1
	shift
	"$@" >>"$output" 2>&1 </dev/null &
	started_pid=$!
	cleanup_push stop_process "$started_pid"
}

mounted() # DIRECTORY
{
	dir=${1// /\\040} awk '$5 == ENVIRON["dir"] { found = 1 } END { exit !found }' /proc/self/mountinfo
}

unmount() # DIRECTORY: also when its daemon is dead
{
	mounted "$1" || return 0
	umount "$1" 2>/dev/null || umount -l "$1"
}

mount_tmpfs() # DIRECTORY OPTIONS: a small disk of the test's own
{
	mkdir -p "$1"
	mount -t tmpfs -o "$2" tierfs-test "$1" || fail "cannot mount a tmpfs"
	cleanup_push unmount "$1"
}

# Starts a daemon in the foreground of a background job and waits until its mount answers.
# Its pid is in $tierfs_pid, its output in $T/tierfs.log. The daemon is stopped on exit, which fails nothing.
tierfs_start() # POOL MOUNTPOINT OPTIONS [DAEMON-ARGUMENT...]
{
	local pool=$1 mountpoint=$2 options=$3
	shift 3
	# A mount that waits for a new daemon would let mkdir wait, too.
	mounted "$mountpoint" || mkdir -p "$mountpoint"
	tierfs -f -o "$options" "$@" "$pool" "$mountpoint" >>"$T/tierfs.log" 2>&1 </dev/null &
	tierfs_pid=$!
	cleanup_push tierfs_kill "$tierfs_pid" "$mountpoint" "$pool"
	if ! wait_for 30 tierfs_answers "$tierfs_pid" "$mountpoint" || ! alive "$tierfs_pid"; then
		cat "$T/tierfs.log" >&2
		fail "the daemon did not mount $mountpoint"
	fi
	# The pool may be gone when run.sh looks what was left behind.
	[ -z "${TIERFS_TEST_POOLS:-}" ] || sed -n 's/^id //p' "$pool/pool.conf" >>"$TIERFS_TEST_POOLS"
}

# A dead mount may be taken away in between, and what lies below it answers, too: 65735546 is FUSE.
mount_answers() # MOUNTPOINT
{
	mounted "$1" && [ "$(stat -f -c %t "$1")" = 65735546 ]
}

tierfs_answers() # PID MOUNTPOINT: true when usable, and when it is no use to wait
{
	alive "$1" || return 0
	mount_answers "$2"
}

# Unmounts and waits for the daemon's end, which must be a clean one.
tierfs_stop() # MOUNTPOINT [SECONDS]
{
	# The evictor may be looking at a file right now.
	wait_for 5 umount "$1" || umount "$1" || fail "cannot unmount $1"
	wait_for "${2:-60}" gone "$tierfs_pid" || fail "the daemon is still there ${2:-60} s after umount"
	wait "$tierfs_pid" || fail "the daemon ended with exit $? ($(tail -n 3 "$T/tierfs.log"))"
}

# Cleanup: whatever state it is in.
tierfs_kill() # PID MOUNTPOINT POOL
{
	local status=0
	unmount "$2"
	wait_for 20 gone "$1" || stop_process "$1"
	wait "$1" 2>/dev/null || status=$?
	# A daemon that ended by itself must have tidied up; one that was killed could not.
	[ "$status" -le 127 ] || tierfs_forget "$3"
}

# Removes what outlives a daemon that was killed, so that another one could take over: the arenas.
tierfs_forget() # POOL
{
	local id
	id=$(sed -n 's/^id //p' "$1/pool.conf" 2>/dev/null)
	[ -n "$id" ] && [ -d "/run/tierfs/$id" ] || return 0
	# Somebody may have taken over.
	flock -n "$1/lock" true || return 0
	umount -l "/run/tierfs/$id/arena" 2>/dev/null
	remove_directory "/run/tierfs/$id"
}

# kill -9, as a crash: the mount is left dead, and is removed as an operator would.
tierfs_crash() # MOUNTPOINT
{
	kill -KILL "$tierfs_pid"
	wait "$tierfs_pid" 2>/dev/null
	umount -l "$1" 2>/dev/null
	return 0
}

# kill -9 of a daemon and of the process that holds its mount for the next one: the mount is dead.
tierfs_kill_all() # PID: of a daemon that took over nothing
{
	local child children
	read -r -a children <"/proc/$1/task/$1/children"
	for child in "${children[@]}"; do
		[ "$(cat "/proc/$child/comm")" != tierfs-holder ] || kill -KILL "$child"
	done
	kill -KILL "$1"
}

# --- what the documents say ---

# The lines of a table of tierfs(8) without its head.
man_table() # NAME
{
	sed -n "/^\.\\\\\" table $1\$/,/^\.\\\\\" end\$/p" "$TIERFS_SRC/docs/man/tierfs.8" | sed '/^\./d' | sed -E '1d; s/ +/ /g'
}

# --- figures ---

# One value of `tierctl stat --json`.
stat_of() # PATH KEY
{
	tierctl stat "$1" --json | jq -r --arg key "$2" '.[$key]'
}

# --- what befalls a daemon and its pool ---

kill_daemon() # PID
{
	kill -KILL "$1"
	wait "$1" 2>/dev/null
	wait_for 10 gone "$1" || fail "the daemon survives SIGKILL"
}

daemon_pid() # what the lock file of $T/pool says
{
	sed 's/ .*//' "$T/pool/lock"
}

is_replaced() # PID: another daemon serves
{
	local pid
	pid=$(daemon_pid)
	[ -n "$pid" ] && [ "$pid" != "$1" ] && alive "$pid"
}

damage_values() # POOL: every value on the disk is overwritten
{
	local values file
	values=$(find "$1/store/values" -type f)
	[ -n "$values" ] || fail "no files of values"
	for file in $values; do
		dd if=/dev/urandom of="$file" bs=1M count=$((($(stat -c %s "$file") >> 20) + 1)) conv=notrunc status=none
		sync "$file"
	done
}
