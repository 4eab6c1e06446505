#!/bin/bash
# timeout: 120
# tierctl run --plain: a program in a memory cgroup that holds its memory down, and goes afterwards. tierctl doctor.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"

need_load
grep -q memory /proc/cgroups || skip "needs memory cgroups"


no_group() { ! find /sys/fs/cgroup -maxdepth 6 -type d -name "tierctl-$runner" | grep -q .; }

tierfs_start "$T/pool" "$T/mnt" dram=512M,min_idle=1
ram=$T/mnt/ram

note "the program is in a cgroup, and its exit status is ours"
assert_match "$(tierctl run --plain --memory 64M -- cat /proc/self/cgroup)" "tierctl-[0-9]+"
assert_status 7 tierctl run --plain --mount "$T/mnt" -- sh -c 'exit 7'
assert_status 143 tierctl run --plain --memory 64M -- sh -c 'kill -TERM $$'
assert_status 1 tierctl run --plain -- true
assert_match "$out" "^tierctl: run: how much memory"
assert_status 1 tierctl run --memory 64M -- true
assert_status 1 tierctl run --plain --memory 64M -- /nonexistent
assert_match "$out" "^tierctl: /nonexistent: cannot run"

note "a load of 128 MiB in 64 MiB"
seconds=$(load_or_long 5 30)
tierctl run --plain --memory 64M -- "$PROG_RMW" --state "$T/state" --size 128M --threads 2 --seconds "$seconds" "$ram" \
	>"$T/load.log" 2>&1 &
runner=$!
cleanup_push stop_process "$runner"
sampled=0
while alive "$runner"; do
	cached=$(stat_of "$ram" cached_bytes 2>/dev/null || echo 0)
	[ "${cached:-0}" != null ] && [ "${cached:-0}" -gt "$sampled" ] && sampled=$cached
	sleep 0.2
done
wait "$runner" || fail "the load ended with exit $?: $(cat "$T/load.log")"
note "  $(tail -n 1 "$T/load.log")"
note "  cached bytes as the engine saw them, at most: $sampled"
no_group || fail "the cgroup is left behind"
load_verify "$ram" --direct
assert_eq "$(stat_of "$ram" errors)" 0 errors

note "doctor"
text=$(tierctl doctor "$T/mnt") || fail doctor
assert_match "$text" "(ok|note|warn) +dirty limits: vm.dirty_"
assert_match "$text" "$T/mnt: dirty memory: strict_limit="
for name in "dirty expire" "map count" "shmem huge pages" userfaultfd UFFDIO_POISON cachestat PAGEMAP_SCAN "pin detection" \
	"$T/mnt: descriptors" "$T/mnt: swap"; do
	assert_match "$text" "$name: " "doctor"
done
assert_eq "$(printf '%s\n' "$text" | grep -vcE '^(ok|note|warn) ')" 0 "lines that are none"
tierctl doctor --json | jq -e '.findings | length > 10 and all(.verdict and .name and .found and .means)' >/dev/null ||
	fail "doctor --json"
assert_status 1 tierctl doctor "$T"
assert_match "$out" "not a tierfs mount"
tierfs_stop "$T/mnt"
