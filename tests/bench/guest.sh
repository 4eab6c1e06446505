#!/bin/bash
# A QEMU guest with its RAM on a file: boots, fills memory, works on it. Prints one line of JSON.
#
#	guest.sh FILE SIZE MIB SECONDS [COMMAND...]     COMMAND goes in front of QEMU
. "$(dirname "$0")/../lib/functions.sh"
. "$(dirname "$0")/../vm/lib.sh"

file=$1 size=$2 mib=$3 seconds=$4
shift 4
vm_prepare
begun=$(date +%s%N)
vm_start "$file" "$size" "guest.mib=$mib guest.seconds=$seconds guest.dwell=1 guest.window=20" "$@"
vm_wait 'GUEST: start' 120
booted=$(date +%s%N)
vm_wait 'GUEST: filled' 300
filled=$(date +%s%N)
vm_wait 'GUEST: OK' 600
vm_finish 60
ops=$(tr -d '\r' <"$vm_console" | sed -n 's/^GUEST: window .* ops \([0-9]*\) bad.*/\1/p' | awk '{ n += $1 } END { print n + 0 }')
printf '{"boot_s": %d.%03d, "fill_s": %d.%03d, "ops": %d}\n' \
	$(((booted - begun) / 1000000000)) $(((booted - begun) / 1000000 % 1000)) \
	$(((filled - booted) / 1000000000)) $(((filled - booted) / 1000000 % 1000)) "$ops"
