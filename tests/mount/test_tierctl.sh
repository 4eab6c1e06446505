#!/bin/bash
# tierctl: what it prints, as text and as JSON, what it moves, and its one line when it cannot.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_tool jq

same_columns() # TEXT: every line has a word where the last column of the head begins
{
	printf '%s\n' "$1" | awk 'NR == 1 { at = match($0, /[^ ]+ *$/) } substr($0, at, 1) == " " || length($0) < at { exit 1 }' ||
		fail "columns do not line up: $1"
}

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
ram=$T/mnt/vm0
truncate -s 32M "$ram"
mkdir "$T/mnt/dir name"
truncate -s 4M "$T/mnt/dir name/vm1"
dd if=/dev/urandom of="$ram" bs=1M count=16 conv=notrunc status=none || fail "cannot fill the file"
cp "$ram" "$T/before"

note "list, ls, stat, map"
text=$(tierctl list) || fail list
assert_match "$text" "MOUNTPOINT +POOL +FILES"
assert_match "$text" "$T/mnt +$T/pool +2 +36M +16K +64M"
tierctl list --json | jq -e --arg m "$T/mnt" '.mounts[] | select(.path == $m) | .state == "ok" and .files == 2' >/dev/null || fail "list --json"
text=$(tierctl ls "$T/mnt") || fail ls
same_columns "$text"
assert_match "$text" "dir name/vm1 +4M none"
assert_eq "$(tierctl ls "$T/mnt" | wc -l)" 3 "lines of ls"
assert_eq "$(tierctl ls "$T/mnt/dir name" --json | jq -r '.files[].path')" "$T/mnt/dir name/vm1" "files below a directory"
assert_eq "$(tierctl ls "$ram" --json | jq -r '.files[].path')" "$ram" "ls of one file"
tierctl ls --json | jq -e '.files | length >= 2' >/dev/null || fail "ls --json is not JSON"
for key in path size_bytes block_bytes mapping mappers resident_bytes cold_bytes hole_bytes stored_bytes promotions demotions \
	demotions_aborted direct_read_bytes direct_write_bytes fault_count fault_p50_ns fault_p99_ns errors; do
	assert_ne "$(stat_of "$ram" $key)" null "$key of a file"
	assert_ne "$(stat_of "$T/mnt" $key)" null "$key of the mount"
done
for key in dram_bytes metadata_bytes store fault_stages; do
	assert_ne "$(stat_of "$T/mnt" $key)" null "$key of the mount"
done
assert_eq "$(stat_of "$ram" path)" "$ram" path
assert_eq "$(stat_of "$ram" resident_bytes)" $((16 << 20)) resident_bytes
assert_eq "$(tierctl stat --bytes "$ram" | awk '$1 == "hole_bytes" { print $2 }')" $((16 << 20)) "hole_bytes as text"
text=$(tierctl stat "$T/mnt")
same_columns "${text%%$'\n\n'*}"
assert_match "${text#*$'\n\n'}" "FAULT STAGE +COUNT +P50" "the table of stages"
assert_eq "$(tierctl map "$ram" --json | jq -c '[.runs[] | [.state, .offset, .length]] | [.[0][0], .[-1]]')" \
	"[\"resident\",[\"hole\",$((16 << 20)),$((16 << 20))]]" "runs"
assert_eq "$(tierctl map "$ram" --json | jq '[.runs[].length] | add')" $((32 << 20)) "length of all runs"
assert_eq "$(tierctl map "$ram" --offset 20M --length 1M --json | jq -c '[.runs[] | .offset, .length]')" "[$((20 << 20)),$((1 << 20))]" "a part"

note "demote, promote, pin"
tierctl pin "$ram" --length 1M >/dev/null || fail pin
assert_eq "$(tierctl demote "$ram" --json | jq -c '.files[0] | [.moved_bytes, .skipped_bytes]')" "[$((15 << 20)),$((1 << 20))]" "demoted"
assert_eq "$(tierctl map "$ram" --length 1M --json | jq -c '[.runs[] | .state, .pinned] | unique')" '[true,"resident"]' "pinned blocks"
tierctl pin --off "$ram" >/dev/null || fail "pin --off"
assert_match "$(tierctl demote "$T/mnt")" "vm0: 1M demoted"
# The kernel's copy of what was read above goes by itself.
nothing_resident() { [ "$(stat_of "$T/mnt" resident_bytes)" = 0 ]; }
wait_for 10 nothing_resident || fail "resident_bytes after all was demoted: $(stat_of "$T/mnt" resident_bytes)"
assert_match "$(tierctl promote "$ram" --offset 2M --length 3M)" "3M promoted"
assert_eq "$(tierctl map "$ram" --offset 2M --length 3M --json | jq -c '[.runs[].state] | unique')" '["resident"]' "promoted blocks"
assert_same_content "$T/before" "$ram"

note "get, set"
assert_eq "$(tierctl get "$T/mnt" dram)" dram=64M
assert_eq "$(tierctl set "$T/mnt" dram=80M min_idle=2.5 | tr '\n' ' ')" "dram=80M min_idle=2.5 "
assert_eq "$(stat_of "$T/mnt" dram_bytes)" $((80 << 20)) dram_bytes
tierctl get "$T/mnt" --json | jq -e '.block == "16K"' >/dev/null || fail "get --json"
one_line "$T/mnt: the daemon refuses: block: cannot be changed while mounted" tierctl set "$T/mnt" block=4K
one_line "$T/mnt: the daemon refuses: colour: no such option" tierctl get "$T/mnt" colour
one_line "$T/mnt: the daemon refuses: dram: lots: not a value it can have" tierctl set "$T/mnt" dram=lots
one_line "dram: not a setting: write NAME=VALUE" tierctl set "$T/mnt" dram

note "an ordinary user"
chmod 755 "$T"
as_nobody=(setpriv --reuid nobody --regid nogroup --clear-groups "$TIERFS_BUILD/bin/tierctl")
if "${as_nobody[@]}" --help >/dev/null 2>&1; then
	one_line "$ram: cannot open: Permission denied" "${as_nobody[@]}" stat "$ram"
fi

note "one line when it cannot"
one_line "a command is missing: .*" tierctl
one_line "fly: no such command: .*" tierctl fly
one_line "--fast: unknown option: .*" tierctl ls --fast
one_line "--offset: the option needs a value: .*" tierctl map "$ram" --offset
one_line "much: not a size" tierctl map "$ram" --offset much
one_line "stat: an argument is missing: .*" tierctl stat
one_line "map: too many arguments: .*" tierctl map "$ram" "$ram"
one_line "/etc/passwd: not in a tierfs mount: .*" tierctl stat /etc/passwd
one_line "/proc: not in a tierfs mount: .*" tierctl ls /proc
one_line "$T/none: cannot open: No such file or directory" tierctl stat "$T/none"
one_line "$T/mnt: the daemon refuses: not a RAM file" tierctl map "$T/mnt"
one_line "$T/mnt/dir name: the daemon refuses: .*" tierctl stat "$T/mnt/dir name"
one_line "none: cannot run: No such file or directory" tierctl run none
assert_match "$(tierctl --help)" "demote +Move idle blocks"
for command in list ls stat map demote promote pin copy set get run; do
	assert_match "$(tierctl $command --help)" "^Usage: tierctl $command" "help of $command"
done

note "a mount whose daemon is dead"
tierfs_kill_all "$tierfs_pid"
wait "$tierfs_pid" 2>/dev/null
one_line "$ram: cannot open: Transport endpoint is not connected" tierctl stat "$ram"
assert_match "$(tierctl list)" "$T/mnt .*Transport endpoint is not connected" "a dead mount in the list"
