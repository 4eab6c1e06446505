#!/bin/bash
# timeout: 300
# A guest with a verified load moves with its hot blocks, and its cold ones follow while it runs at the other end: every page is what it wrote.
# The way back breaks in the middle, and goes on.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"
. "$(dirname "$0")/../lib/two_mounts.sh"
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_migrate.sh"

need_load
vm_prepare
two_mounts dram=160M,min_idle=1
guest_start guest0 "$T/one/vm0" 512M "guest.mib=300 guest.seconds=0 guest.dwell=2 guest.window=10"
vm_wait 'GUEST: window' 120
cold() { [ "$(stat_of "$T/one/vm0" cold_bytes)" -ge $((100 << 20)) ]; }
assert_ok wait_for 60 cold

note "there: cold blocks last"
guest_move guest0 "$T/one/vm0" guest1 "$T/two/vm0" --post-copy --rate 10M
note "$(jq -c '{cold_blocks, resident_blocks, wanted_blocks, background_blocks, rest_bytes, rest_seconds, longest_wait_seconds}' "$T/guest1.json")"
assert_ge "$(jq .wanted_blocks "$T/guest1.json")" 1 "blocks on demand"
assert_ge "$(jq .background_blocks "$T/guest1.json")" 1 "blocks in the background"
assert_eq "$(stat_of "$T/two/vm0" away_bytes)" 0 "bytes that are away at the end"
assert_eq "$(stat_of "$T/two/vm0" errors)" 0 errors
vm_wait 'GUEST: window' 60

note "and back: who brings them is killed"
old_pid=$vm_pid
guest_start guest2 "$T/one/vm1" 512M "" -incoming defer
tierctl migrate --post-copy --rate 8M --qmp "$T/guest1.qmp" --target-qmp "$T/guest2.qmp" --uri "unix:$T/guest2.devices" \
	--via "echo \$\$ >$T/supplier; exec tierctl recv --answer --in-place $T/one/vm1 2>$T/recv" "$T/two/vm0" >"$T/moved" 2>"$T/errors" &
migrate_pid=$!
cleanup_push stop_process "$migrate_pid"
runs() { [ "$(stat_of "$T/one/vm1" promotions)" -ge 1 ]; } # it has touched what was cold
wait_for 90 runs || fail "it does not run at the target: $(cat "$T/errors" "$T/recv")"
away=$(stat_of "$T/one/vm1" away_bytes)
note "it runs, and $((away >> 20)) MiB are away"
assert_ge "$away" 1 "bytes that are away while it runs"
kill -KILL "$(cat "$T/supplier")"
wait "$migrate_pid" && fail "migrate does not notice"
assert_match "$(cat "$T/errors")" "^tierctl: $T/two/vm0: moved, but: cold blocks are only here: keep it, go on with send --resume: "
waits() { [ "$(stat_of "$T/one/vm1" wanted_blocks)" -ge 1 ]; }
wait_for 30 waits || fail "the guest needs nothing that is away"
tierctl send --resume --via "tierctl recv --answer --resume $T/one/vm1" "$T/two/vm0" >"$T/resumed" 2>&1 || fail "send --resume: $(cat "$T/resumed")"
note "$(cat "$T/resumed")"
assert_eq "$(stat_of "$T/one/vm1" away_bytes)" 0 "bytes that are away at the end"
stop_process "$old_pid"
guest_end guest2
vm_wait 'GUEST: OK' 200
note "$(vm_last 'GUEST: OK')"
assert_match "$(vm_last 'GUEST: OK')" 'bad 0 ' "the guest's own count"
vm_finish 20
two_mounts_stop
