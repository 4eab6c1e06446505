#!/bin/bash
# timeout: 480
# The same guest without tierctl run, its memory mapped plain (map=auto): every page is what the guest wrote, idle memory goes to the
# store, and the DRAM that the kernel and the arena hold together stays near the budget.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"
. "$(dirname "$0")/lib.sh"

need_load
vm_prepare
seconds=$(load_or_long 15 120)
limit_bytes=$((160 * 3 / 2 << 20))

tierfs_start "$T/pool" "$T/mnt" dram=160M,min_idle=1
vm_start "$T/mnt/vm0" 512M "guest.mib=340 guest.seconds=$seconds guest.dwell=2"
assert_ok wait_for 20 test -s "$T/mnt/vm0"
load_sample_start "$T/mnt/vm0" "$T/samples"
vm_wait 'GUEST: start' 60
assert_eq "$(stat_of "$T/mnt/vm0" mapping)" plain mapping
vm_wait 'GUEST: filled' 180
vm_wait 'GUEST: OK' $((seconds + 240))
note "$(vm_last 'GUEST: OK')"
load_sample_stop
figures=$(tierctl stat "$T/mnt/vm0" --json)
note "$(jq -c '{resident_bytes, cold_bytes, hole_bytes, stored_bytes, promotions, demotions, fault_p50_ns, fault_p99_ns}' <<<"$figures")"
vm_finish 20

assert_match "$(vm_last 'GUEST: OK')" 'bad 0 ' "the guest's own count"
assert_ge "$(wc -l <"$T/samples")" 20 samples
assert_le "$(load_sample_max "$T/samples" resident_bytes)" "$limit_bytes" resident_bytes
assert_ge "$(load_sample_max "$T/samples" cold_bytes)" $((100 << 20)) "most cold_bytes at a time"
assert_ge "$(jq .promotions <<<"$figures")" 1000 promotions
assert_ge "$(jq .demotions <<<"$figures")" 1000 demotions
assert_eq "$(jq .errors <<<"$figures")" 0 errors
tierfs_stop "$T/mnt"
