#!/bin/bash
# timeout: 240
# The daemon is killed while a guest works over its budget, and started again on the same pool: the guest waits, goes on, and finds every
# page as it left it.
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../lib/load.sh"
. "$(dirname "$0")/lib.sh"

need_load
vm_prepare
times=$(load_or_long 2 10)
options=dram=160M,min_idle=1

guest_lines()
{
	# shellcheck disable=SC2154 # set by vm_start
	grep -ac 'GUEST:' "$vm_console"
}

guest_lines_beyond() # COUNT
{
	# shellcheck disable=SC2154
	! alive "$vm_pid" || [ "$(guest_lines)" -gt "$1" ]
}

tierfs_start "$T/pool" "$T/mnt" "$options"
vm_start "$T/mnt/vm0" 512M "guest.mib=300 guest.seconds=$((times * 5 + 10)) guest.dwell=1" tierctl run --
vm_wait 'GUEST: filled' 90
for ((i = 1; i <= times; i++)); do
	tierfs_crash "$T/mnt"
	note "killed the daemon, last line: $(vm_last GUEST:)"
	lines=$(guest_lines)
	tierfs_start "$T/pool" "$T/mnt" "$options"
	# Two lines more: at least one window was worked on with the new daemon.
	assert_ok wait_for 60 guest_lines_beyond $((lines + 1))
	alive "$vm_pid" || break
	assert_eq "$(stat_of "$T/mnt/vm0" mappers)" 1 "mappers after the restart"
done
vm_wait 'GUEST: OK' 120
note "$(vm_last 'GUEST: OK')"
vm_finish 20
assert_match "$(vm_last 'GUEST: OK')" 'bad 0 ' "the guest's own count"
assert_eq "$(stat_of "$T/mnt/vm0" errors)" 0 errors
tierfs_stop "$T/mnt"
