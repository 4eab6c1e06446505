#!/bin/bash
# timeout: 600
# A guest with a verified load moves from one mount to another and back, twice or (TIERFS_LONG=1: 1 GiB, a quarter of it hot) ten times; it
# goes on, and every page is what it wrote. How long it stood still and what travelled is printed. What was cold is
# cold at the other end, and coming back costs what changed.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"
. "$(dirname "$0")/../lib/two_mounts.sh"
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_migrate.sh"

need_load
vm_prepare
moves=$(load_or_long 2 10)
two_mounts "dram=$(load_or_long 160M 288M)"
guest_start guest0 "$T/one/vm0" "$(load_or_long 512M 1024M)" \
	"guest.mib=$(load_or_long 300 760) guest.seconds=0 guest.dwell=2 guest.window=10"
vm_wait 'GUEST: window' 120
note "$(tierctl migrate --dry-run "$T/one/vm0")"

note "a target that does not answer: nobody begins to receive"
assert_status 1 tierctl migrate --qmp "$T/guest0.qmp" --target-qmp "$T/none.qmp" --uri "unix:$T/none.devices" \
	--via "touch $T/began" "$T/one/vm0"
assert_match "$out" "not moved: .*none.qmp"
[ ! -e "$T/began" ] || fail "a receiver was begun before the target answered"

note "a receiver that fails: the guest goes on where it is"
guest_pid=$vm_pid guest_console=$vm_console
guest_start refused "$T/two/refused" 512M "" -incoming defer
assert_status 1 tierctl migrate --qmp "$T/guest0.qmp" --target-qmp "$T/refused.qmp" --uri "unix:$T/refused.devices" \
	--via "head -c 30000000 | tierctl recv --answer --in-place $T/two/refused" "$T/one/vm0"
assert_match "$out" "not moved"
stop_process "$vm_pid"
rm "$T/two/refused"
vm_pid=$guest_pid vm_console=$guest_console
windows() { grep -ac 'GUEST: window' "$guest_console"; }
at=$(windows)
went_on() { [ "$(windows)" -gt "$at" ]; }
assert_ok wait_for 30 went_on

from=$T/one to=$T/two
for ((i = 1; i <= moves; i++)); do
	promotions=$(stat_of "$from/vm0" promotions)
	guest_move "guest$((i - 1))" "$from/vm0" "guest$i" "$to/vm0"
	note "move $i: promotions at the source while it moved $(($(stat_of "$from/vm0" promotions) - promotions)), target: $(tierctl stat "$to/vm0" --json | jq -c '{resident_bytes, cold_bytes, promotions, errors}')"
	assert_ge "$(stat_of "$to/vm0" cold_bytes)" $((50 << 20)) "cold at the target"
	vm_wait 'GUEST: window' 60
	swap=$from from=$to to=$swap
done
# How much changed meanwhile hangs on how fast the guest is here.
assert_le "$(jq .stream_bytes "$T/guest2.json")" "$(jq .stream_bytes "$T/guest1.json")" "bytes of the way back"
guest_end "guest$moves"
vm_wait 'GUEST: OK' 240
note "$(vm_last 'GUEST: OK')"
assert_match "$(vm_last 'GUEST: OK')" 'bad 0 ' "the guest's own count"
vm_finish 20
two_mounts_stop
