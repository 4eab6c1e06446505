#!/bin/bash
# make demo: a QEMU guest whose memory is larger than the DRAM it gets.
#
# Makes a pool and a mount of its own, boots a guest with its RAM on a file there, shows what goes where while the guest works and checks
# itself, copies the file with O_DIRECT, and takes everything away again, also on Ctrl-C.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/lib/functions.sh
. tests/lib/load.sh
. tests/vm/lib.sh

guest_size=512M
guest_mib=340
budget=160M
seconds=${TIERFS_DEMO_SECONDS:-40}
started=$SECONDS
bold='' dim='' plain=''
if [ -t 1 ]; then
	bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m')
fi

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
text() { printf '  %s\n' "$*"; }
indent() { sed 's/^/  /'; }

# Takes the private directory off names, and its width off the table's first column.
short_names() { sed -E "s|^FILE {$((${#T} + 1))}|FILE|; s|$T/||g"; }

# Shows a command as one would type it, and runs it.
show() # COMMAND...
{
	local shown=$*
	printf '  %s$ %s%s\n' "$dim" "${shown//$T\//}" "$plain"
	"$@" 2>&1 | short_names | indent
	return "${PIPESTATUS[0]}"
}

mib() # BYTES
{
	echo "$((($1 + (1 << 19)) >> 20)) MiB"
}

need_here()
{
	[ "$(id -u)" -eq 0 ] || { echo "make demo: needs root, to mount and to open /dev/userfaultfd" >&2; exit 1; }
	[ -w /dev/fuse ] || { echo "make demo: needs /dev/fuse (modprobe fuse)" >&2; exit 1; }
	[ -e /dev/userfaultfd ] || { echo "make demo: needs /dev/userfaultfd (Linux 6.1 or later)" >&2; exit 1; }
}

start_guest()
{
	title "2. A guest with $guest_size of memory on a file there"
	text "A Debian kernel and one program that writes $guest_mib MiB of patterns, works on a part at a time, and checks every page."
	printf '  %s$ tierctl run -- qemu-system-x86_64 -object memory-backend-file,id=mem,size=%s,mem-path=mnt/vm0,share=on ...%s\n' \
		"$dim" $guest_size "$plain"
	vm_start "$T/mnt/vm0" $guest_size "guest.mib=$guest_mib guest.seconds=$seconds guest.dwell=4 guest.window=15" tierctl run --
	wait_for 20 test -s "$T/mnt/vm0" || fail "QEMU did not start: $(cat "$vm_console")"
	load_sample_start "$T/mnt/vm0" "$T/samples"
	vm_wait 'GUEST: start' 60
}

guest_done_or_tick() # EPOCHSECONDS
{
	! alive "$vm_pid" || [ -n "$(vm_last 'GUEST: (OK|BAD)')" ] || [ "$(date +%s)" -ge "$1" ]
}

follow_guest()
{
	while alive "$vm_pid" && [ -z "$(vm_last 'GUEST: OK')" ]; do
		[ -z "$(vm_bad)" ] || fail "the guest found bad memory: $(vm_bad | head -n 3)"
		[ $((SECONDS - started)) -lt 240 ] || fail "the guest is too slow: $(vm_last GUEST:)"
		wait_for 10 guest_done_or_tick $(($(date +%s) + 5))
		printf '\n  %sguest:%s %s\n' "$bold" "$plain" "$(vm_last 'GUEST:' | sed 's/^GUEST: //')"
		show tierctl ls "$T/mnt"
	done
	vm_wait 'GUEST: OK' 1
	vm_finish 20
	load_sample_stop
}

copy_cold()
{
	local before after
	title "3. Copying it, cold, with O_DIRECT"
	text "The guest is off. Everything is demoted, then read from the cold store: nothing comes back to DRAM for it."
	show tierctl demote "$T/mnt/vm0" || fail "demote"
	before=$(stat_of "$T/mnt/vm0" promotions)
	show tierctl copy "$T/mnt/vm0" "$T/copy1.img" || fail "copy"
	show dd if="$T/mnt/vm0" of="$T/copy2.img" bs=1M iflag=direct || fail "dd"
	show cmp "$T/copy1.img" "$T/copy2.img" || fail "the copies differ"
	after=$(stat_of "$T/mnt/vm0" promotions)
	copy_promotions=$((after - before))
	show tierctl ls "$T/mnt"
	text "Both copies are equal. Promotions caused by copying: $copy_promotions."
}

finish()
{
	local run_dir left
	run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")
	title "4. Unmounting"
	show umount "$T/mnt" || fail "umount"
	wait_for 60 gone "$tierfs_pid" || fail "the daemon is still there"
	left=$(grep -F -e "$T" -e "$run_dir" /proc/self/mountinfo; ls -d "$run_dir" 2>/dev/null)
	[ -z "$left" ] || fail "left behind: $left"
	text "No process, no mount, no socket is left."
}

summary()
{
	local cold stored
	cold=$(jq .cold_bytes "$T/last.json") stored=$(jq .stored_bytes "$T/last.json")
	title "Summary"
	text "guest            $(vm_last 'GUEST: OK' | sed 's/^GUEST: //')"
	text "DRAM             $(mib "$(load_sample_max "$T/samples" resident_bytes)") at most, of $budget allowed, for a guest of $guest_size"
	text "moved            $(jq .demotions "$T/last.json") blocks demoted, $(jq .promotions "$T/last.json") promoted when the guest came back to them"
	text "cold store       $(mib "$cold") of memory in $(mib "$stored") on disk"
	text "cold faults      p50 $(jq '.fault_p50_ns / 1000 | floor' "$T/last.json") us, p99 $(jq '.fault_p99_ns / 1000 | floor' "$T/last.json") us"
	text "O_DIRECT copy    $copy_promotions promotions"
	text "all of it took   $((SECONDS - started)) s"
	printf '\n'
}

# shellcheck disable=SC2154 # status is cleanup_run's
last_words()
{
	[ "$status" -eq 0 ] || [ ! -s "$T/tierfs.log" ] || { echo "the daemon's last lines:"; tail -n 5 "$T/tierfs.log"; } >&2
}

need_here
need_tool jq
vm_prepare
cleanup_push last_words
title "1. A pool, and a mount that may use $budget of DRAM"
printf '  %s$ tierfs -o dram=%s,min_idle=1 pool mnt%s\n' "$dim" "$budget" "$plain"
tierfs_start "$T/pool" "$T/mnt" "dram=$budget,min_idle=1"
start_guest
follow_guest
copy_cold
tierctl stat "$T/mnt/vm0" --json >"$T/last.json" || fail "stat"
finish
summary
