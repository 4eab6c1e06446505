# A QEMU guest whose work can be followed on its console. Sourced after functions.sh.
#
#   vm_prepare                kernel and initramfs for vm_start; skips the test where that is impossible
#   vm_start FILE SIZE SETTINGS [COMMAND...]
#                             boots a guest with its RAM on FILE; COMMAND goes in front of QEMU ("tierctl run --")
#   vm_add_program DIRECTORY PROGRAM..., vm_pack DIRECTORY FILE, vm_boot SIZE SETTINGS
#                             a guest with programs of this system instead, whose memory is not on tierfs
#   vm_wait REGEX SECONDS     until a line of the console matches; fails if the guest finds bad memory or dies
#   vm_last REGEX             the last line that matches
#   vm_monitor COMMAND        a line for QEMU's monitor ("balloon 256")
#   vm_finish SECONDS         waits until the guest has powered off
#   vm_stop                   ends QEMU, whatever it does
#
# State is in $vm_pid and $vm_console (a file).
# shellcheck shell=bash

vm_cache=${TIERFS_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/tierfs}
vm_pid=
vm_console=

# The package that linux-image-cloud-amd64 stands for. On a new machine the lists have to be fetched first.
vm_kernel_package()
{
	local name
	name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p')
	if [ -z "$name" ] && [ "$(id -u)" = 0 ]; then
		apt-get update -qq >/dev/null 2>&1
		name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
			sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p')
	fi
	echo "$name" | head -n 1
}

# Downloads and unpacks the kernel and the modules of the balloon and of FUSE, never installs. The result is kept: later runs need no network.
vm_fetch_kernel()
{
	local package=$1 work
	work=$(mktemp -d "$vm_cache/fetch.XXXXXX") || return 1
	if (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package" >/dev/null 2>&1) &&
		dpkg-deb -x "$work"/*.deb "$work/root" && mkdir "$work/kept" &&
		mv "$work"/root/boot/vmlinuz-* "$work/kept/vmlinuz" &&
		mv "$work"/root/lib/modules/*/kernel/drivers/virtio/*.ko "$work/kept/" &&
		mv "$work"/root/lib/modules/*/kernel/fs/fuse/fuse.ko "$work/kept/"; then
		# Whoever came first has made the same, or less.
		mv -T "$work/kept" "$vm_cache/$package" 2>/dev/null || mv -n "$work"/kept/* "$vm_cache/$package/"
		rm -rf "$work"
		return 0
	fi
	rm -rf "$work"
	return 1
}

vm_newest_kernel() # FIND-ARGUMENT...: a directory of the cache
{
	find "$vm_cache" -mindepth 1 -maxdepth 1 -name 'linux-image-*' -exec test -e '{}/fuse.ko' ';' "$@" -print |
		sort -V | tail -n 1
}

# Sets vm_kernel, a directory: one that was fetched in the last month, the current Debian cloud kernel, or an older one.
vm_find_kernel()
{
	local package
	mkdir -p "$vm_cache" || fail "cannot create $vm_cache"
	vm_kernel=$(vm_newest_kernel -mtime -30)
	[ -n "$vm_kernel" ] && return 0
	package=$(vm_kernel_package)
	if [ -n "$package" ] && vm_fetch_kernel "$package"; then
		vm_kernel=$vm_cache/$package
		return 0
	fi
	vm_kernel=$(vm_newest_kernel)
	[ -n "$vm_kernel" ] && return 0
	skip "no guest kernel: cannot download the package that linux-image-cloud-amd64 stands for"
}

vm_make_initrd()
{
	local dir=$1 root=$1/initrd busybox
	busybox=$(command -v busybox) || return 1
	mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" || return 1
	cp "$busybox" "$root/bin/busybox" && cp "$TIERFS_BUILD/tests/vm/guest_work" "$root/guest_work" || return 1
	cp "$vm_kernel"/*.ko "$root" || return 1
	cat >"$root/init" <<-'INIT'
		#!/bin/busybox sh
		/bin/busybox mount -t proc proc /proc
		/bin/busybox mount -t sysfs sysfs /sys
		/bin/busybox mount -t devtmpfs devtmpfs /dev
		for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_balloon; do
			/bin/busybox insmod /$module.ko
		done
		/guest_work
		/bin/busybox poweroff -f
	INIT
	chmod 755 "$root/init"
	vm_pack "$root" "$dir/initrd.gz"
}

vm_pack() # DIRECTORY FILE: an initramfs, in $vm_initrd; the directory goes
{
	(cd "$1" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$2" || return 1
	rm -rf "$1"
	vm_initrd=$2
}

# Into bin/ of the initramfs, with the libraries that it is linked with.
vm_add_program() # DIRECTORY PROGRAM...
{
	local root=$1 program library
	shift
	mkdir -p "$root/bin"
	for program in "$@"; do
		cp "$program" "$root/bin/" || return 1
		while IFS= read -r library; do
			[ ! -e "$root$library" ] || continue
			install -D "$library" "$root$library" || return 1
		done < <(ldd "$program" | sed -n 's:^[^/]*\(/[^ ]*\) (.*:\1:p')
	done
	# What a program carries for a debugger would be read into memory, too.
	find "$root" -type f \( -path '*/bin/*' -o -name '*.so*' \) -exec strip -S {} + 2>/dev/null
	return 0
}

vm_prepare()
{
	need_tool qemu-system-x86_64 busybox dpkg-deb apt-get
	[ -x "$TIERFS_BUILD/tests/vm/guest_work" ] || fail "$TIERFS_BUILD/tests/vm/guest_work is not built"
	vm_find_kernel
	vm_make_initrd "$T" || fail "cannot make the initramfs"
}

vm_start() # FILE SIZE SETTINGS [COMMAND...]
{
	local file=$1 size=$2 settings=$3
	shift 3
	vm_console=$T/console.log
	rm -f "$T/monitor.in" "$T/monitor.out"
	mkfifo "$T/monitor.in" "$T/monitor.out" || fail "mkfifo"
	"$@" qemu-system-x86_64 -accel tcg,tb-size=64 -cpu max -smp 1 -m "$size" \
		-object "memory-backend-file,id=mem,size=$size,mem-path=$file,share=on" -machine pc,memory-backend=mem \
		-nodefaults -display none -serial stdio -monitor "pipe:$T/monitor" -no-reboot -net none \
		-device virtio-balloon-pci,free-page-reporting=on \
		-kernel "$vm_kernel/vmlinuz" -initrd "$vm_initrd" \
		-append "console=ttyS0 quiet panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 $settings" \
		</dev/null >"$vm_console" 2>&1 &
	vm_pid=$!
	cleanup_push stop_process "$vm_pid"
}

# A guest with memory of QEMU's own; the rest as vm_start().
vm_boot() # SIZE SETTINGS
{
	vm_console=$T/console.log
	qemu-system-x86_64 -accel tcg,tb-size=128 -cpu max -smp 1 -m "$1" -machine pc -nodefaults -display none -serial stdio \
		-no-reboot -net none -kernel "$vm_kernel/vmlinuz" -initrd "$vm_initrd" \
		-append "console=ttyS0 quiet panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 $2" \
		</dev/null >"$vm_console" 2>&1 &
	vm_pid=$!
	cleanup_push stop_process "$vm_pid"
}

vm_monitor() # COMMAND: for QEMU's monitor; what it answers is lost
{
	echo "$*" | timeout 10 tee "$T/monitor.in" >/dev/null || fail "QEMU does not listen to its monitor"
}

vm_last() # REGEX
{
	tr -d '\r' <"$vm_console" | grep -aE "$1" | tail -n 1
}

# What the guest prints when memory is not what it wrote, or when it is beyond printing.
vm_bad()
{
	tr -d '\r' <"$vm_console" | grep -aE 'GUEST: (BAD|bad)|Kernel panic|BUG:|Oops|general protection|segfault'
}

vm_has_line_or_died() # REGEX
{
	alive "$vm_pid" || return 0
	[ -n "$(vm_last "$1")" ] || vm_bad
}

vm_wait() # REGEX SECONDS
{
	local outcome=0
	wait_for "$2" vm_has_line_or_died "$1" || outcome=$?
	[ -z "$(vm_bad)" ] || fail "the guest found bad memory: $(vm_bad | head -n 5)"
	[ -z "$(vm_last "$1")" ] || return 0
	[ $outcome -eq 0 ] || fail "no line '$1' within $2 s; the end of the console: $(tail -n 5 "$vm_console")"
	fail "QEMU ended before '$1'; the end of its console: $(tail -n 5 "$vm_console")"
}

vm_stop()
{
	[ -z "$vm_pid" ] || stop_process "$vm_pid"
	vm_pid=
}

# The guest powers off by itself after its work.
vm_finish() # SECONDS
{
	wait_for "$1" gone "$vm_pid" || fail "the guest does not power off: $(tail -n 5 "$vm_console")"
	wait "$vm_pid" || fail "QEMU ended with exit $?: $(tail -n 5 "$vm_console")"
	vm_pid=
}
