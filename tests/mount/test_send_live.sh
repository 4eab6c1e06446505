#!/bin/bash
# timeout: 180
# The memory of a running program is sent in rounds: when it stands still at the end, source and target are the same. Nothing is promoted by
# the copy, and what was not hot is cold at the target.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"
. "$(dirname "$0")/../lib/two_mounts.sh"

need_load
two_mounts dram=48M,min_idle=1 dram=96M,min_idle=1

content() # FILE
{
	tierctl copy "$1" "$T/copied" >/dev/null && sha256sum <"$T/copied"
}

note "a program works over 96 MiB in a budget of 48 MiB, mostly on a part of it"
load_start "$T/one/vm0" --size 96M --seconds 60 --zipf 0.9 --threads 2 --fresh
is_busy() { [ "$(stat_of "$T/one/vm0" demotions)" -ge 2000 ]; }
assert_ok wait_for 60 is_busy
program=$load_pid

tail -n 3 "$T/load.log"
note "in rounds, then it is stopped"
tierctl send --live --downtime 200ms --pause "$(stop_command "$program")" --via "tierctl recv --answer $T/two/vm0" "$T/one/vm0" --json >"$T/sent" 2>"$T/errors" ||
	fail "send --live: $(cat "$T/errors")"
note "$(jq -c . "$T/sent")"
assert_eq "$(content "$T/one/vm0")" "$(content "$T/two/vm0")" "content when it stands still"
assert_ge "$(jq .rounds "$T/sent")" 1 rounds
assert_eq "$(stat_of "$T/two/vm0" promotions)" 0 "promotions of the target"

note "once more, as it went on for a moment: what changed alone travels"
kill -CONT "$program"
ops() { awk '$3 == "ops" { ops = $2 } END { print ops + 0 }' "$T/load.log"; }
went_on() { [ "$(ops)" -gt $((at + 500)) ]; }
for _ in before after; do # what is told first may have been done before it was stopped
	at=$(ops)
	assert_ok wait_for 30 went_on
done
tierctl send --live --pause "$(stop_command "$program")" --via "tierctl recv --answer $T/two/vm0" "$T/one/vm0" --json >"$T/sent2" 2>"$T/errors" ||
	fail "send --live: $(cat "$T/errors")"
note "$(jq -c . "$T/sent2")"
assert_eq "$(content "$T/one/vm0")" "$(content "$T/two/vm0")" "content the second time"
assert_eq "$(jq .delta "$T/sent2")" true
assert_ge "$(jq '.resident_blocks + .cold_blocks' "$T/sent2")" 1 "blocks that changed"

note "a pause that fails: the target stays in pieces under another name"
kill -CONT "$program"
assert_status 1 tierctl send --live --pause false --via "tierctl recv --answer $T/two/vm1" "$T/one/vm0"
assert_match "$out" "the pause command failed"
assert_match "$out" "the other side gave up"
[ ! -e "$T/two/vm1" ] || fail "half a file has the name of a whole one"
stop_process "$load_pid"
two_mounts_stop
