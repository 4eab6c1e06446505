#!/bin/bash
# timeout: 180
# Memory that the guest gives back becomes holes, in DRAM and in the store: a balloon takes it page by page, free page reporting in
# large pieces. Taken again, it reads as the guest expects.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"
. "$(dirname "$0")/lib.sh"

need_load
vm_prepare
ram=$T/mnt/vm0

holes_beyond() # BYTES
{
	[ "$(stat_of "$ram" hole_bytes)" -ge "$1" ]
}

tierfs_start "$T/pool" "$T/mnt" dram=160M,min_idle=1
vm_start "$ram" 512M "guest.mib=300 guest.release=200 guest.seconds=14 guest.dwell=2" tierctl run --
vm_wait 'GUEST: filled' 90
holes=$(stat_of "$ram" hole_bytes)

# The balloon takes some of what is free page by page; the guest reports the rest in large pieces.
vm_wait 'GUEST: released' 60
vm_monitor balloon 400
wait_for 10 holes_beyond $((holes + (64 << 20))) ||
	fail "200 MiB were given back, holes went from $holes to $(stat_of "$ram" hole_bytes)"
vm_monitor balloon 512
note "holes: $((holes >> 20)) MiB, then $(($(stat_of "$ram" hole_bytes) >> 20)) MiB"

vm_wait 'GUEST: took back' 60
vm_wait 'GUEST: OK' 90
note "$(vm_last 'GUEST: OK')"
vm_finish 20
assert_match "$(vm_last 'GUEST: OK')" 'bad 0 ' "the guest's own count"
assert_eq "$(stat_of "$ram" errors)" 0 errors
tierfs_stop "$T/mnt"
