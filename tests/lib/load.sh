# Functions for tests that put a verified load on a mapped RAM file. Sourced after functions.sh.
# shellcheck shell=bash

PROG_RMW=$TIERFS_BUILD/tests/prog/prog_rmw
# Short by default, so that `make check` stays quick; TIERFS_LONG=1 is the whole of it.
LOAD_LONG=${TIERFS_LONG:-0}

load_or_long() # SHORT LONG: the one that counts
{
	if [ "$LOAD_LONG" = 1 ]; then echo "$2"; else echo "$1"; fi
}

need_load() # everything that a mapped load needs
{
	need_root
	need_fuse
	need_userfaultfd
	need_tool jq
	[ -x "$PROG_RMW" ] || fail "$PROG_RMW is not built"
}

# For send --pause. A signal only asks for the stop: threads run on until one of them has taken it.
stop_command() # PID
{
	echo "kill -STOP $1; while grep -h '^State:' /proc/$1/task/*/status | grep -qv 'stopped'; do sleep 0.001; done"
}

# Samples `tierctl stat` of PATH into FILE, one line of JSON each, until load_sample_stop. A daemon that is away leaves a gap.
load_sample_start() # PATH FILE
{
	: >"$2"
	while :; do
		tierctl stat "$1" --json 2>/dev/null | jq -c . >>"$2" 2>/dev/null
		sleep 0.1
	done &
	load_sampler=$!
	cleanup_push stop_process "$load_sampler"
}

load_sample_stop()
{
	stop_process "$load_sampler"
}

load_sample_max() # FILE KEY
{
	jq -s --arg key "$2" 'map(.[$key]) | max // 0' "$1"
}

# Starts prog_rmw under tierctl run in the background: its pid is in $load_pid, its output in $T/load.log and $T/load.json.
load_start() # FILE PROG-ARGUMENT...
{
	local file=$1
	shift
	tierctl run -- "$PROG_RMW" --state "$T/state" --report 0.5 --json "$@" "$file" \
		</dev/null >"$T/load.json" 2>"$T/load.log" &
	load_pid=$!
	cleanup_push stop_process "$load_pid"
}

# Starts prog_rmw as any program; as load_start() otherwise.
load_start_plain() # FILE PROG-ARGUMENT...
{
	local file=$1
	shift
	"$PROG_RMW" --state "$T/state" --report 0.25 --json "$@" "$file" </dev/null >"$T/load.json" 2>"$T/load.log" &
	load_pid=$!
	cleanup_push stop_process "$load_pid"
}

# Waits for the end of a load that is right in every word. SECONDS is beyond its own length.
load_finish() # SECONDS
{
	wait_for "$1" gone "$load_pid" || fail "the load hangs: $(tail -n 2 "$T/load.log")"
	wait "$load_pid" || fail "the load ended with exit $?: $(cat "$T/load.log")"
	grep -v ' ops/s  slowest' "$T/load.log" || :
	assert_eq "$(load_result wrong)" 0 "wrong slots"
}

load_result() # KEY
{
	jq -r --arg key "$1" '.[$key]' "$T/load.json"
}

load_ops() # operations so far
{
	sed -n 's/^ *[0-9.]*s *\([0-9]*\) ops .*/\1/p' "$T/load.log" | tail -n 1 | grep . || echo 0
}

load_ops_beyond() # COUNT
{
	[ "$(load_ops)" -gt "$1" ]
}

# The load goes on, which shows that nothing of it waits for ever.
load_progresses() # SECONDS
{
	local before
	before=$(load_ops)
	if ! wait_for "$1" load_ops_beyond "$((before + 100))"; then
		fail "the load stands still: $(tail -n 3 "$T/load.log"; tail -n 5 "$T/tierfs.log")"
	fi
	alive "$load_pid" || fail "the load ended: $(cat "$T/load.log")"
}

# Content against what the load has written last. Arguments are for prog_rmw: --direct, --map, --range.
load_verify() # FILE [PROG-ARGUMENT...]
{
	local file=$1
	shift
	"$PROG_RMW" --state "$T/state" --verify-only "$@" "$file" || fail "$file does not hold what was written"
}
