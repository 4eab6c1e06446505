# tests/vm/lib.sh - a QEMU guest whose work can be followed on its console. To be sourced by bash.
#
#   vm_prepare DIR            kernel and initramfs, as $VM_KERNEL and $VM_INITRD (made in DIR); 77 when impossible
#   vm_start FILE SIZE SETTINGS [COMMAND...]
#                             boots a guest with its RAM on FILE; COMMAND goes in front of QEMU ("tierctl run --")
#   vm_wait REGEX SECONDS     until a line of the console matches
#   vm_last REGEX             the last line that matches
#   vm_alive                  true while QEMU runs
#   vm_stop                   ends QEMU, whatever it does
#
# State is in VM_PID and VM_LOG (the console). Functions return non-zero and say why on stderr; none exits.

VM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VM_TOP=$(cd "$VM_DIR/../.." && pwd)
VM_BUILD=${TIERFS_BUILD:-$VM_TOP/build/debug}
VM_CACHE=${TIERFS_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/tierfs}
VM_PID=
VM_LOG=

vm_say() { echo "vm: $*" >&2; }

# The package that linux-image-cloud-amd64 stands for. On a new machine the lists have to be fetched first.
vm_kernel_package() {
	local name
	name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p')
	if [ -z "$name" ] && [ "$(id -u)" = 0 ]; then
		apt-get update -qq >/dev/null 2>&1
		name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
			sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p')
	fi
	echo "$name" | head -n 1
}

# Downloads and unpacks, never installs. The result is kept: later runs need no network.
vm_fetch_kernel() {
	local package=$1 work
	work=$(mktemp -d "$VM_CACHE/fetch.XXXXXX") || return 1
	if (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package" >/dev/null 2>&1) &&
		dpkg-deb -x "$work"/*.deb "$work/root" && mv "$work"/root/boot/vmlinuz-* "$VM_CACHE/$package.vmlinuz"; then
		rm -rf "$work"
		return 0
	fi
	rm -rf "$work"
	return 1
}

# Sets VM_KERNEL: TIERFS_VM_KERNEL, the current Debian cloud kernel, or the newest one in the cache.
vm_find_kernel() {
	local package
	VM_KERNEL=${TIERFS_VM_KERNEL:-}
	[ -n "$VM_KERNEL" ] && return 0
	mkdir -p "$VM_CACHE" || return 77
	VM_KERNEL=$(find "$VM_CACHE" -name '*.vmlinuz' -mtime -30 2>/dev/null | sort -V | tail -n 1)
	[ -n "$VM_KERNEL" ] && return 0
	package=$(vm_kernel_package)
	if [ -n "$package" ] && vm_fetch_kernel "$package"; then
		VM_KERNEL=$VM_CACHE/$package.vmlinuz
		return 0
	fi
	VM_KERNEL=$(find "$VM_CACHE" -name '*.vmlinuz' | sort -V | tail -n 1)
	[ -n "$VM_KERNEL" ] && return 0
	vm_say "no guest kernel: cannot download linux-image-cloud-amd64 (set TIERFS_VM_KERNEL to a vmlinuz)"
	return 77
}

vm_make_initrd() {
	local dir=$1 root=$1/initrd busybox
	busybox=$(command -v busybox) || return 1
	mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" || return 1
	cp "$busybox" "$root/bin/busybox" && cp "$VM_BUILD/tests/vm/guest_work" "$root/guest_work" || return 1
	cat >"$root/init" <<-'INIT'
		#!/bin/busybox sh
		/bin/busybox mount -t proc proc /proc
		/bin/busybox mount -t sysfs sysfs /sys
		/bin/busybox mount -t devtmpfs devtmpfs /dev
		/guest_work
		/bin/busybox poweroff -f
	INIT
	chmod 755 "$root/init"
	(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$dir/initrd.gz"
	rm -rf "$root"
	VM_INITRD=$dir/initrd.gz
}

vm_prepare() {
	local dir=$1 tool
	for tool in qemu-system-x86_64 busybox dpkg-deb; do
		command -v "$tool" >/dev/null || { vm_say "$tool is not installed"; return 77; }
	done
	[ -x "$VM_BUILD/tests/vm/guest_work" ] || { vm_say "$VM_BUILD/tests/vm/guest_work is not built"; return 1; }
	vm_find_kernel || return
	vm_make_initrd "$dir" || { vm_say "cannot make the initramfs"; return 1; }
}

vm_start() {
	local file=$1 size=$2 settings=$3
	shift 3
	VM_LOG=$(dirname "$VM_INITRD")/console.log
	"$@" qemu-system-x86_64 -accel tcg,tb-size=64 -cpu max -smp 1 -m "$size" \
		-object "memory-backend-file,id=mem,size=$size,mem-path=$file,share=on" -machine pc,memory-backend=mem \
		-nodefaults -display none -serial stdio -no-reboot -net none \
		-kernel "$VM_KERNEL" -initrd "$VM_INITRD" \
		-append "console=ttyS0 quiet panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 $settings" \
		</dev/null >"$VM_LOG" 2>&1 &
	VM_PID=$!
}

# A zombie that nobody waited for is not alive.
vm_alive() {
	[ -n "$VM_PID" ] && [ -r "/proc/$VM_PID/stat" ] && ! grep -q '^[0-9]* (.*) Z ' "/proc/$VM_PID/stat"
}

vm_last() { tr -d '\r' <"$VM_LOG" | grep -aE "$1" | tail -n 1; }

# What the guest prints when memory is not what it wrote, or when it is beyond printing.
vm_bad() { tr -d '\r' <"$VM_LOG" | grep -aE 'GUEST: (BAD|bad)|Kernel panic|BUG:|Oops|general protection|segfault'; }

vm_wait() {
	local regex=$1 end=$((SECONDS + $2)) alive
	while :; do
		alive=no
		vm_alive && alive=yes
		if tr -d '\r' <"$VM_LOG" | grep -qaE "$regex"; then
			return 0
		fi
		if vm_bad >/dev/null; then
			vm_say "the guest found bad memory:"
			vm_bad | head -n 5 >&2
			return 1
		fi
		if [ $alive = no ]; then
			vm_say "QEMU ended before '$regex'; the end of its console:"
			tail -n 5 "$VM_LOG" >&2
			return 1
		fi
		if [ $SECONDS -ge "$end" ]; then
			vm_say "no line '$regex' within $2 s; the end of the console:"
			tail -n 5 "$VM_LOG" >&2
			return 1
		fi
		sleep 0.1
	done
}

vm_stop() {
	[ -n "$VM_PID" ] || return 0
	kill "$VM_PID" 2>/dev/null
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		vm_alive || break
		sleep 0.1
	done
	kill -9 "$VM_PID" 2>/dev/null
	wait "$VM_PID" 2>/dev/null
	VM_PID=
}
