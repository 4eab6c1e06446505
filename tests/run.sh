#!/bin/bash
# Runs tests one after the other: tests/run.sh TEST...
#
# A test is a Check program (each of its cases counts), or a script (counts as one). Exit 0: passed; 77: skipped, the last line of its
# output says why; else: failed. Output goes to a log, which is shown when the test failed. The last line is the sum.
#
# A test gets a private directory (TIERFS_TEST_DIR) and a mark in its environment. What it leaves behind, a mount, a process,
# a runtime directory or a cgroup (tierfs-test-MARK), is removed and makes it fail.
#
# Runs that are given the same empty directory as TIERFS_TEST_CLAIMS divide the tests among them: each is run by whoever comes to it first.
# With TIERFS_TEST_LANES=2 a run divides its programs so with a second one that it starts itself. A script runs alone.
#
# A script sets its own time limit with a line "# timeout: SECONDS" among its first 20; a program with "/* timeout: SECONDS */".
set -u
export LC_ALL=C

source_dir=$(cd "$(dirname "$0")/.." && pwd)
export TIERFS_SRC=$source_dir
export TIERFS_BUILD=${TIERFS_BUILD:-$source_dir/build/debug}
mode=${TIERFS_MODE:-debug}
log_dir=$TIERFS_BUILD/logs
mkdir -p "$log_dir"

slow=1
case $mode in
asan | tsan) slow=4 ;;
esac
export CK_VERBOSITY=normal
export CK_DEFAULT_TIMEOUT=60
export CK_TIMEOUT_MULTIPLIER=$slow
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1 second_deadlock_stack=1 ${TSAN_OPTIONS:-}"
export ASAN_OPTIONS="verify_asan_link_order=0 detect_stack_use_after_return=1 ${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1 ${UBSAN_OPTIONS:-}"

passed=0 failed=0 skipped=0
failures=()
test_dir='' test_mark='' test_pools='' test_pid=''
lane='' lane_dir=''

# gcc's ThreadSanitizer knows only the address layout without much randomization.
launcher=()
if [ "$mode" = tsan ] && setarch -R true 2>/dev/null; then
	launcher=(setarch -R)
fi

# --- what a test may leave behind ---

mounts_below() # DIRECTORY: deepest first
{
	dir=$1/ awk 'index($5 "/", ENVIRON["dir"]) == 1 { gsub(/\\040/, " ", $5); print $5 }' /proc/self/mountinfo | sort -r
}

marked_processes()
{
	grep -slF "TIERFS_TEST_MARK=$test_mark" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}

# Several runs may share the machine, so all of this looks only at what the test itself has made.

# The runtime directories of the pools that are in its directory, or were started there by tierfs_start().
run_dirs()
{
	local id
	{
		find "$test_dir" -maxdepth 4 -name pool.conf -exec sed -n 's/^id //p' {} + 2>/dev/null
		cat "$test_pools" 2>/dev/null
	} | sort -u | while IFS= read -r id; do
		[ -z "$id" ] || [ ! -d "/run/tierfs/$id" ] || echo "/run/tierfs/$id"
	done
}

cgroups()
{
	find /sys/fs/cgroup -depth -maxdepth 4 -type d -name "tierfs-test-$test_mark*" 2>/dev/null
}

# A bind mount that is left below would be emptied too, and --one-file-system does not see one of the same disk.
remove_directory() # DIRECTORY
{
	if [ -n "$(mounts_below "$1")" ]; then
		echo "not removed, something is mounted below: $1"
		return
	fi
	chmod -R u+rwX "$1" 2>/dev/null
	rm -rf --one-file-system "$1"
}

# A daemon that was just unmounted may need a moment to end.
wait_for_processes()
{
	local try
	for try in {1..60}; do
		[ -n "$(marked_processes)" ] || return 0
		sleep 0.05
	done
	return "$((try > 0))"
}

# Prints what was left, one line each, and removes it.
sweep()
{
	local pid dir mount
	local IFS=$'\n'
	if ! wait_for_processes; then
		for pid in $(marked_processes); do
			echo "left behind: process $pid ($(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null))"
			kill -KILL "$pid" 2>/dev/null
		done
	fi
	for dir in $(run_dirs); do
		echo "left behind: $dir"
		for mount in $(mounts_below "$dir"); do
			umount -l "$mount"
		done
		remove_directory "$dir"
	done
	for mount in $(mounts_below "$test_dir"); do
		echo "left behind: mount $mount"
		umount -l "$mount" 2>/dev/null || fusermount3 -uz "$mount" 2>/dev/null
	done
	for dir in $(cgroups); do
		echo "left behind: cgroup $dir"
		rmdir "$dir"
	done
}

interrupted()
{
	if [ -n "$lane" ]; then
		kill -TERM "$lane" 2>/dev/null
		wait "$lane" 2>/dev/null
	fi
	[ -z "$lane_dir" ] || rm -rf "$lane_dir"
	if [ -n "$test_pid" ]; then
		kill -TERM "$test_pid" 2>/dev/null
		wait "$test_pid" 2>/dev/null
	fi
	[ -z "$test_dir" ] || { sweep; remove_directory "$test_dir"; rm -f "$test_pools"; } >/dev/null
	exit 130
}
trap interrupted INT TERM HUP

# --- one test ---

time_limit() # TEST
{
	local seconds='' text=$1
	[ -n "${text##*.sh}" ] && text=$source_dir/${1#"$TIERFS_BUILD"/}.c
	[ -f "$text" ] && seconds=$(sed -n '1,20s:^[#/]\** timeout\: \([0-9]*\).*:\1:p' "$text" | head -n 1)
	echo "$((${seconds:-120} * slow))"
}

# Adds the cases of a Check program to the sums. Prints "N cases" or nothing.
count_check() # LOG STATUS
{
	local line
	line=$(grep -a '^[0-9]*%: Checks: [0-9]*, Failures: [0-9]*, Errors: [0-9]*$' "$1" | tail -n 1)
	[[ $line =~ Checks:\ ([0-9]+),\ Failures:\ ([0-9]+),\ Errors:\ ([0-9]+) ]] || return 1
	cases=${BASH_REMATCH[1]}
	bad=$((BASH_REMATCH[2] + BASH_REMATCH[3]))
	# A report at exit (a leak, say) is a failure that no case owns.
	if [ "$2" -ne 0 ] && [ "$bad" -eq 0 ]; then
		bad=1
		cases=$((cases + 1))
	fi
}

report() # WORD NAME TEXT
{
	local elapsed=$((($(date +%s%N) - started_ns) / 10000000))
	printf '%-4s  %-40s %5d.%02d s  %s\n' "$1" "$2" $((elapsed / 100)) $((elapsed % 100)) "$3"
}

show_log() # NAME STATUS LIMIT
{
	[ "$2" -ne 124 ] && [ "$2" -ne 137 ] || echo "(ended by its time limit of $3 s, or killed)" >>"$log"
	sed 's/^/    | /' "$log" | tail -n "${TIERFS_TEST_LINES:-150}"
}

# The lines that say what was wrong, at most three, or else the last one.
reasons() # NAME
{
	{
		grep -aE '^FAILED: |:[FE]:|(ERROR|SUMMARY|WARNING): [A-Z][A-Za-z]*Sanitizer|runtime error: |^left behind: ' "$log" || tail -n 1 "$log"
	} | awk '!seen[$0]++' | head -n 3 | sed "s|^|failed: $1: |"
}

run_test() # TEST
{
	local name limit status left cases=1 bad=0 log
	name=${1#"$TIERFS_BUILD"/} name=${name#"$source_dir"/} name=${name#tests/} name=${name%.sh}
	log=$log_dir/${name//\//_}.log
	limit=$(time_limit "$1")
	test_dir=$(mktemp -d "${TMPDIR:-/tmp}/tierfs-test.XXXXXX") || exit 1
	test_mark=$$.${name//\//_}
	test_pools=$test_dir.pools
	started_ns=$(date +%s%N)

	TIERFS_TEST_DIR=$test_dir TIERFS_TEST_MARK=$test_mark TIERFS_TEST_POOLS=$test_pools timeout --kill-after=15 "$limit" \
		"${launcher[@]}" "$1" </dev/null >"$log" 2>&1 &
	test_pid=$!
	wait "$test_pid"
	status=$?
	test_pid=''

	left=$(
		sweep
		remove_directory "$test_dir"
	)
	rm -f "$test_pools"
	test_dir=''
	if [ -n "$left" ]; then
		printf '%s\n' "$left" >>"$log"
		[ "$status" -ne 0 ] && [ "$status" -ne 77 ] || status=99
	fi
	if [ "$status" -eq 77 ]; then
		skipped=$((skipped + 1))
		report skip "$name" "$(tail -n 1 "$log")"
		return
	fi
	if ! count_check "$log" "$status" && [ "$status" -ne 0 ]; then
		bad=1
	fi
	passed=$((passed + cases - bad))
	failed=$((failed + bad))
	if [ "$bad" -eq 0 ]; then
		report ok "$name" "$([ "$cases" -eq 1 ] || echo "$cases cases")"
	else
		report FAIL "$name" "exit $status; again with: TIERFS_BUILD=$TIERFS_BUILD $1"
		show_log "$name" "$status" "$limit"
		failures+=("$(reasons "$name")")
	fi
}

# --- the second lane ---

start_lane() # TEST...
{
	local programs=() test
	for test in "$@"; do
		[[ $test == *.sh ]] || programs+=("$test")
	done
	[ ${#programs[@]} -gt 1 ] || return 0
	lane_dir=$(mktemp -d "${TMPDIR:-/tmp}/tierfs-lane.XXXXXX") || exit 1
	export TIERFS_TEST_CLAIMS=$lane_dir/claims
	mkdir "$TIERFS_TEST_CLAIMS" || exit 1
	TIERFS_TEST_LANES=1 "$0" "${programs[@]}" >"$lane_dir/log" 2>&1 &
	lane=$!
}

end_lane()
{
	local sum
	[ -n "$lane" ] || return 0
	wait "$lane"
	lane=''
	sum=$(tail -n 1 "$lane_dir/log")
	if [[ $sum =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
		passed=$((passed + BASH_REMATCH[1]))
		failed=$((failed + BASH_REMATCH[2]))
		skipped=$((skipped + BASH_REMATCH[3]))
	else
		failed=$((failed + 1))
		failures+=("failed: the second lane: $sum")
	fi
	grep -a -v '^failed: ' "$lane_dir/log" | grep -a -v -Fx -e "$sum"
	mapfile -t -O "${#failures[@]}" failures < <(grep -a '^failed: ' "$lane_dir/log")
}

# True if the test is ours to run.
claim() # TEST
{
	local claim
	[ -n "${TIERFS_TEST_CLAIMS:-}" ] || return 0
	claim=$TIERFS_TEST_CLAIMS/${1//\//_}
	mkdir "$claim" 2>/dev/null && return 0
	[ -d "$claim" ] && return 1
	echo "$claim cannot be made" >&2
	exit 1
}

[ "${TIERFS_TEST_LANES:-1}" -eq 1 ] || [ -n "${TIERFS_TEST_CLAIMS:-}" ] || start_lane "$@"
for test in "$@"; do
	case $test in
	/*) ;;
	*) test=$PWD/$test ;;
	esac
	[[ $test != *.sh ]] || end_lane
	claim "$test" || continue
	run_test "$test"
done
end_lane
[ -z "$lane_dir" ] || rm -rf "$lane_dir"
[ ${#failures[@]} -eq 0 ] || printf '%s\n' "${failures[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
