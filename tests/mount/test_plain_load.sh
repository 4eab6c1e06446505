#!/bin/bash
# timeout: 400
# Verified random read-modify-writes over 256 MiB that are mapped plain, in a budget of 64 MiB: no wrong word, and what the
# kernel caches (as the kernel counts it) and the arena hold together stays below one and a half times the budget. First the
# daemon chooses what goes, then the kernel does, in a memory cgroup. At last a plain and an attached file in one mount.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
prog_cached=$TIERFS_BUILD/tests/prog/prog_cached
[ -x "$prog_cached" ] || fail "$prog_cached is not built"
"$prog_cached" "$0" >/dev/null
[ $? -ne 77 ] || skip "needs cachestat(2) (Linux 6.5)"
seconds=$(load_or_long 8 60)
budget_bytes=$((64 << 20))
limit_bytes=$((96 << 20))

# Starts prog_rmw, by COMMAND, on FILE; as load_start() does.
plain_start() # FILE NAME [COMMAND...] -- PROG-ARGUMENT...
{
	local file=$1 name=$2 command=()
	shift 2
	while [ "$1" != -- ]; do
		command+=("$1")
		shift
	done
	shift
	"${command[@]}" "$PROG_RMW" --state "$T/$name.state" --report 0.5 --json "$@" "$file" </dev/null >"$T/$name.json" 2>"$T/$name.log" &
	load_pid=$!
	cleanup_push stop_process "$load_pid"
}

plain_finish() # NAME PID SECONDS
{
	wait_for "$3" gone "$2" || fail "$1 hangs: $(tail -n 2 "$T/$1.log"; tail -n 3 "$T/tierfs.log")"
	wait "$2" || fail "$1 ended with exit $?: $(cat "$T/$1.log")"
	assert_eq "$(jq -r .wrong "$T/$1.json")" 0 "wrong slots of $1"
	note "$(jq -c '{ops, p50_ns, p99_ns, max_ns}' "$T/$1.json")"
}

# Adds "CACHED ARENA" in bytes to FILE while the process is there.
sample_while() # PID PATH FILE
{
	local cached arena
	: >"$3"
	while alive "$1"; do
		cached=$("$prog_cached" "$2") || fail "exit $? of prog_cached"
		arena=$(stat_of "$2" arena_bytes)
		[ -z "$arena" ] || echo "$cached $arena" >>"$3"
		sleep 0.1
	done
}

# The largest sum; the beginning counts too.
held_max() # FILE
{
	awk '{ sum = $1 + $2; if (sum > max) max = sum } END { print max + 0 }' "$1"
}

check_load() # NAME: file and load of that name
{
	sample_while "$load_pid" "$T/mnt/$1" "$T/$1.held"
	plain_finish "$1" "$load_pid" 10
	note "$(tierctl stat "$T/mnt/$1" --json | jq -c '{mapping, cached_bytes, arena_bytes, cold_bytes, stored_bytes, errors}'), at most $(held_max "$T/$1.held") bytes"
	assert_ge "$(wc -l <"$T/$1.held")" 5 samples
	assert_le "$(held_max "$T/$1.held")" "$limit_bytes" "bytes in the kernel's cache and in the arena"
	assert_ge "$(stat_of "$T/mnt/$1" cold_bytes)" $((16 << 20)) cold_bytes
	assert_eq "$(stat_of "$T/mnt/$1" errors)" 0 errors
	"$PROG_RMW" --state "$T/$1.state" --verify-only --direct "$T/mnt/$1" || fail "$1 does not hold what was written"
}

note "the daemon chooses"
tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
plain_start "$T/mnt/daemon" daemon -- --size 256M --threads 2 --seconds "$seconds"
assert_ok wait_for 10 test -s "$T/mnt/daemon"
check_load daemon
rm "$T/mnt/daemon"

note "the kernel chooses"
if tierctl run --plain --memory=64M true 2>"$T/cgroup.log"; then
	plain_start "$T/mnt/cgroup" cgroup tierctl run --plain --mount="$T/mnt" -- --size 256M --threads 2 --seconds "$seconds"
	assert_ok wait_for 10 test -s "$T/mnt/cgroup"
	check_load cgroup
	# What the program has beside the file is in the group too, so there is less for the file than the daemon would leave it.
	assert_le "$(awk '$1 > max { max = $1 } END { print max + 0 }' "$T/cgroup.held")" "$budget_bytes" "bytes in the kernel's cache"
	rm "$T/mnt/cgroup"
else
	note "  left out: $(cat "$T/cgroup.log")"
fi
tierfs_stop "$T/mnt"

note "plain and attached"
tierfs_start "$T/pool" "$T/mnt" dram=96M,min_idle=1
plain_start "$T/mnt/plain" plain -- --size 128M --threads 2 --seconds "$seconds"
plain_pid=$load_pid
plain_start "$T/mnt/attached" attached tierctl run -- --size 128M --threads 2 --seconds "$seconds"
attached_pid=$load_pid
mappings() { echo "$(stat_of "$T/mnt/plain" mapping) $(stat_of "$T/mnt/attached" mapping)"; }
both_mapped() { [ "$(mappings)" = "plain attached" ]; }
wait_for 10 both_mapped || fail "mapped otherwise: $(mappings)"
plain_finish plain "$plain_pid" $((seconds + 120))
plain_finish attached "$attached_pid" $((seconds + 120))
for name in plain attached; do
	"$PROG_RMW" --state "$T/$name.state" --verify-only --direct "$T/mnt/$name" || fail "$name does not hold what was written"
	assert_eq "$(stat_of "$T/mnt/$name" errors)" 0 "errors of $name"
done
tierfs_stop "$T/mnt"
