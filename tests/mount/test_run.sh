#!/bin/bash
# tierctl run: programs that would not be tiered, and are told so or refused; what attached memory rules out; how much of it
# there can be; what the preload library asks of libc.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool python3
need_tool setcap
need_tool nm
need_tool qemu-system-x86_64

library=$TIERFS_BUILD/lib/tierfs/libtierfs-preload.so

note "symbols: what musl and glibc 2.17 have"
nm -D --undefined-only "$library" >"$T/symbols" || fail nm
assert_eq "$(grep -oE 'GLIBC_[0-9.]+' "$T/symbols" | sort -V | tail -1)" GLIBC_2.17 "newest version"
grep -E ' (__register_atfork|__[a-z]+_chk|[a-z]+64|[a-z]+_np)@' "$T/symbols" && fail "not in musl"

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1,allow_other
truncate -s 1M "$T/mnt/ram"

note "file capabilities"
chmod 755 "$T"
cp "$(type -P true)" "$T/capable"
setcap cap_net_raw+ep "$T/capable" || skip "no file capabilities in $T"
as_nobody()
{
	setpriv --reuid nobody --regid nogroup --clear-groups -- "$@"
}
if as_nobody test -x "$TIERFS_BUILD/bin/tierctl"; then
	tierctl=$TIERFS_BUILD/bin/tierctl
else
	mkdir -p "$T/copy/bin" "$T/copy/lib/tierfs"
	cp "$TIERFS_BUILD/bin/tierctl" "$T/copy/bin/"
	cp "$library" "$T/copy/lib/tierfs/"
	tierctl=$T/copy/bin/tierctl
fi
assert_status 0 as_nobody "$tierctl" run -- "$T/capable"
assert_match "$out" "capable: has file capabilities \(setcap\): the library is not loaded into it"
assert_status 1 as_nobody "$tierctl" run --require -- "$T/capable"
assert_match "$out" "capable: has file capabilities"
assert_status 0 tierctl run --require -- "$T/capable" # root

note "system calls without libc"
assert_status 0 tierctl run -- "$TIERFS_BUILD/tests/prog/prog_go"
assert_match "$out" "makes its system calls without libc"
assert_status 1 tierctl run --require -- "$TIERFS_BUILD/tests/prog/prog_go"

note "private mappings"
cat >"$T/private.py" <<-'END'
	import mmap, os, sys
	fd = os.open(sys.argv[1], os.O_RDWR)
	for i in range(2):
	    mmap.mmap(fd, 1 << 20, flags=mmap.MAP_PRIVATE)
	END
assert_status 0 tierctl run -- python3 "$T/private.py" "$T/mnt/ram"
assert_eq "$(grep -c "$T/mnt/ram: is mapped MAP_PRIVATE" <<<"$out")" 1 "lines about a private mapping"
assert_status 1 tierctl run --require -- python3 "$T/private.py" "$T/mnt/ram"
assert_match "$out" "$T/mnt/ram: cannot be mapped: MAP_PRIVATE .share=off. memory is not tiered"
assert_match "$out" "No such device"
truncate -s 1M "$T/elsewhere"
assert_status 0 tierctl run -- python3 "$T/private.py" "$T/elsewhere"
assert_eq "$out" "" "what is said about a file of another filesystem"

note "a userfaultfd of the program's own"
cat >"$T/uffd.py" <<-'END'
	import ctypes, mmap, os, sys
	libc = ctypes.CDLL(None, use_errno=True)
	def userfaultfd():
	    return ctypes.get_errno() if libc.syscall(ctypes.c_long(323), ctypes.c_long(0)) < 0 else 0
	print("before", userfaultfd())
	m = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 1 << 20)
	print("attached", userfaultfd())
	m.close()
	print("after", userfaultfd())
	END
assert_status 0 tierctl run -- python3 "$T/uffd.py" "$T/mnt/ram"
assert_match "$out" "before 0"
assert_match "$out" "attached 38"
assert_match "$out" "after 0"
qmp()
{
	printf '%s\n' '{"execute":"qmp_capabilities"}' \
		'{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"background-snapshot","state":true}]}}' \
		'{"execute":"quit"}' | timeout 60 tierctl run -- qemu-system-x86_64 -accel tcg -nodefaults -nographic -S -m 64M \
		-object memory-backend-file,id=mem,size=64M,mem-path="$1",share=on -machine pc,memory-backend=mem -qmp stdio 2>&1
}
out=$(qmp "$T/mnt/vm")
assert_match "$out" '"error".*Background-snapshot is not supported by host kernel' "QEMU's answer"
assert_match "$out" "tierfs: no userfaultfd for this process while a RAM file is attached: .*tierctl migrate --post-copy"

note "many mappings"
cat >"$T/many.py" <<-'END'
	import mmap, os, sys
	fd = os.open(sys.argv[1], os.O_RDWR)
	maps = []
	try:
	    for i in range(5000):
	        maps.append(mmap.mmap(fd, 4096, offset=4096 * i))
	except OSError as error:
	    print(len(maps), error.errno)
	for i, m in enumerate(maps):
	    m[0] = i & 255
	sys.exit(any(os.pread(fd, 1, 4096 * i)[0] != i & 255 for i in range(len(maps))))
	END
truncate -s 20M "$T/mnt/many"
(
	ulimit -n 1024 && exec tierctl run -- python3 "$T/many.py" "$T/mnt/many"
) >"$T/few" 2>&1 || fail "with 1,024 descriptors: $(cat "$T/few")"
assert_match "$(cat "$T/few")" "many: cannot be mapped: the limit of open files .RLIMIT_NOFILE, ulimit -n. is too low"
(
	ulimit -n 20000 && exec tierctl run -- python3 "$T/many.py" "$T/mnt/many"
) >"$T/many" 2>&1 || fail "$(cat "$T/many")"
assert_match "$(cat "$T/many")" "many: cannot be mapped: the process has 4096 mappings, which is the limit"
assert_match "$(cat "$T/many")" "4096 24$"
tierfs_stop "$T/mnt"
