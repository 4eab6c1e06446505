# A guest that moves between two mounts. Sourced after functions.sh, load.sh, lib.sh and two_mounts.sh.
#
#   guest_start NAME FILE SIZE SETTINGS [QEMU-ARGUMENT...]
#                             a QEMU with its RAM on FILE, its QMP at $T/NAME.qmp; sets vm_pid and vm_console, so that vm_wait works
#   guest_move NAME FILE NEW-NAME NEW-FILE [MIGRATE-OPTION...]
#                             moves it; the totals are in $T/NEW-NAME.json
#   guest_end NAME            tells the guest (guest.seconds=0) to end; then vm_wait 'GUEST: OK'
# shellcheck shell=bash

guest_start()
{
	local name=$1 file=$2 size=$3 settings=$4
	shift 4
	vm_console=$T/$name.log
	rm -f "$T/$name.qmp" "$T/$name.in" "$vm_console"
	mkfifo "$T/$name.in" || fail "mkfifo"
	tierctl run -- qemu-system-x86_64 -accel tcg,tb-size=64 -cpu max -smp 1 -m "$size" \
		-object "memory-backend-file,id=mem,size=$size,mem-path=$file,share=on" -machine pc,memory-backend=mem \
		-nodefaults -display none -serial stdio -qmp "unix:$T/$name.qmp,server=on,wait=off" -no-reboot -net none \
		-device virtio-balloon-pci -kernel "$vm_kernel/vmlinuz" -initrd "$vm_initrd" \
		-append "console=ttyS0 quiet panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 $settings" "$@" \
		<>"$T/$name.in" >"$vm_console" 2>&1 &
	vm_pid=$!
	cleanup_push stop_process "$vm_pid"
	wait_for 20 test -S "$T/$name.qmp" || fail "QEMU does not start: $(cat "$vm_console")"
}

guest_end()
{
	echo end >"$T/$1.in"
}

guest_move()
{
	local name=$1 file=$2 new_name=$3 new_file=$4 old_pid=$vm_pid size settings=
	shift 4
	size=$(stat -c %s "$file")
	guest_start "$new_name" "$new_file" "$((size >> 20))M" "$settings" -incoming defer
	tierctl migrate --qmp "$T/$name.qmp" --target-qmp "$T/$new_name.qmp" --uri "unix:$T/$new_name.devices" \
		--via "tierctl recv --answer --in-place $new_file" "$file" --json "$@" >"$T/$new_name.json" 2>"$T/$new_name.errors" ||
		fail "migrate: $(cat "$T/$new_name.errors")"
	stop_process "$old_pid"
	note "$new_name: $(jq -c '{stream_bytes, rounds, last_round_bytes, seconds, downtime_seconds, stop_seconds, memory_seconds, devices_seconds, delta}' "$T/$new_name.json")"
}
