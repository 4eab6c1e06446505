#!/bin/bash
# Sizes, reads and writes, O_DIRECT, fallocate, seeks: what is allowed, what is refused, and what it leaves.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
fs=$TIERFS_BUILD/tests/prog/prog_fs
M=$T/mnt
F=$M/file

expect() # WANTED-OUTPUT WANTED-STATUS PROG_FS-ARGUMENT...
{
	local wanted=$1 status=$2
	shift 2
	assert_status "$status" "$fs" "$@"
	assert_eq "$out" "$wanted" "$*"
}

size() { stat -c %s "$F"; }

tierfs_start "$T/pool" "$M" dram=32M,block=16K,min_idle=1
: >"$F"

note "sizes"
for bytes in 1 4095 4097 4096; do
	expect '' 0 truncate "$F" $bytes
	assert_eq "$(size)" $bytes
	assert_eq "$(stat -c %b "$F")" 0 "blocks of a hole of $bytes"
done
expect '' 0 truncate "$F" 1099511627776
assert_eq "$(stat -c %b "$F")" 0 "blocks of an empty file of 1 TiB"
expect EFBIG 1 truncate "$F" 9223372036854771712
expect '' 0 truncate "$F" 4096

note "a write past the end"
expect 100 0 pwrite "$F" 4096 100 1
assert_eq "$(size)" 4196 "size after a write of a part of a page"
expect 200 0 pwrite "$F" 4000 200 1
assert_eq "$(size)" 4200 "size after a write across pages"
expect "104 1" 0 pread "$F" 4096 4096
expect '' 0 truncate "$F" 0
expect '' 0 truncate "$F" 4096
expect 8192 0 pwrite "$F" 4096 8192 1
expect 100 0 pwrite "$F" 12188 100 2
expect 4196 0 pwrite "$F" 12188 4196 3
assert_eq "$(size)" 16384 "size after writes past the end"
expect 100 0 append "$F" 100
assert_eq "$(size)" 16484 "size after an append of a part of a page"
expect '' 0 truncate "$F" 16384
expect 4096 0 append "$F" 4096
expect "4096 0" 0 pread "$F" 16384 4096
assert_eq "$(size)" 20480 "size after an append"

note "reads: inside, across the end, past it, odd places"
expect "4096 0" 0 pread "$F" 0 4096
expect "200 mixed" 0 pread "$F" 4000 200
expect "4196 3" 0 pread "$F" 12188 4196
expect "480 0" 0 pread "$F" 20000 100000
expect "0" 0 pread "$F" 20480 4096
expect "0" 0 pread "$F" 1099511627776 4096

note "what truncate cuts off does not come back"
expect '' 0 truncate "$F" 8192
expect '' 0 truncate "$F" 32768
expect "24576 0" 0 pread "$F" 8192 24576
expect "4096 1" 0 pread "$F" 4096 4096
: >"$F" # O_TRUNC
assert_eq "$(size)" 0 "size after O_TRUNC"

note "O_DIRECT wants whole pages"
expect '' 0 truncate "$F" 65536
expect EINVAL 1 pread "$F" 1 4096 direct
expect EINVAL 1 pread "$F" 512 4096 direct
expect EINVAL 1 pread "$F" 0 100 direct
expect EINVAL 1 pwrite "$F" 100 4096 1 direct
expect EINVAL 1 pwrite "$F" 0 512 1 direct
expect 4096 0 pwrite "$F" 4096 4096 7 direct
expect 16384 0 pwrite "$F" 16384 16384 8 direct
expect "4096 7" 0 pread "$F" 4096 4096
expect "4096 0" 0 pread "$F" 0 4096 direct
expect "16384 8" 0 pread "$F" 16384 16384 direct
expect "32768 0" 0 pread "$F" 32768 65536 direct
expect 4096 0 pwrite "$F" 65536 4096 9 direct
assert_eq "$(size)" 69632 "size after a direct write at the end"
expect "4096 9" 0 pread "$F" 65536 8192 direct
expect 100 0 pwrite "$F" 69632 100 10 direct # the last piece of a file
assert_eq "$(size)" 69732 "size after a direct write of the last piece"
expect "100 10" 0 pread "$F" 69632 100 direct
expect "100 10" 0 pread "$F" 69632 4096 direct
expect EINVAL 1 pread "$F" 69632 99 direct
expect EINVAL 1 pwrite "$F" 69632 99 1 direct
expect EINVAL 1 pwrite "$F" 69732 4096 1 direct

note "holes and data"
expect '' 0 truncate "$F" 0
expect '' 0 truncate "$F" 131072
expect ENXIO 1 seek "$F" data 0
expect 0 0 seek "$F" hole 0
expect 16384 0 pwrite "$F" 32768 16384 5
expect 16384 0 pwrite "$F" 49152 16384 6 direct
expect 32768 0 seek "$F" data 0
expect 40000 0 seek "$F" data 40000
expect 65536 0 seek "$F" hole 32768
expect 65536 0 seek "$F" hole 50000
expect ENXIO 1 seek "$F" data 65536
expect ENXIO 1 seek "$F" hole 131072

note "fallocate"
keep=1 punch=2 collapse=8 zero=16 insert=32
expect EOPNOTSUPP 1 fallocate "$F" $((collapse)) 0 4096
expect EOPNOTSUPP 1 fallocate "$F" $((insert)) 0 4096
expect EOPNOTSUPP 1 fallocate "$F" $((punch)) 0 4096
expect '' 0 fallocate "$F" $((punch | keep)) 32768 8192
expect "8192 0" 0 pread "$F" 32768 8192
expect "8192 5" 0 pread "$F" 40960 8192
expect '' 0 fallocate "$F" $((punch | keep)) 41000 10 # inside a page: zeros
expect "40 5" 0 pread "$F" 40960 40
expect "10 0" 0 pread "$F" 41000 10
expect "5 5" 0 pread "$F" 41010 5
expect '' 0 fallocate "$F" $((zero)) 49152 16384
expect "16384 0" 0 pread "$F" 49152 16384
expect 49152 0 seek "$F" hole 40960
expect '' 0 fallocate "$F" $((punch | keep)) 0 1099511627776
expect ENXIO 1 seek "$F" data 0
assert_eq "$(size)" 131072 "size after a discard beyond the end"
expect '' 0 fallocate "$F" 0 131072 4096
assert_eq "$(size)" 135168 "size after fallocate beyond the end"
expect '' 0 fallocate "$F" 0 135168 100
assert_eq "$(size)" 135268 "size after fallocate to within a page"
expect '' 0 fallocate "$F" $((zero)) 135268 100
assert_eq "$(size)" 135368 "size after zeros beyond the end"
expect '' 0 truncate "$F" 135168
expect '' 0 fallocate "$F" $((zero | keep)) 135168 100
expect '' 0 fallocate "$F" $((keep)) 135168 1048576
assert_eq "$(size)" 135168 "size after fallocate that keeps it"
assert_eq "$(stat -c %b "$F")" 0 "blocks of holes"

note "what a mount does not offer says so"
expect '' 0 mmap "$F"
expect ENOTTY 1 other-ioctl "$F"
expect ENOTTY 1 other-ioctl "$M"
expect ENOTTY 1 info "$T"
expect '' 0 fsync "$F"
expect '' 0 fsync "$M"
run_dir=/run/tierfs/$(sed -n 's/^id //p' "$T/pool/pool.conf")
expect "1 1 0 16384 $run_dir" 0 info "$M"
expect "$(stat -c %i "$F") 1 135168 16384 $run_dir" 0 info "$F"
expect "$(stat -c %i "$F") 2 135168 16384 $run_dir" 0 info "$F" w

note "statfs"
assert_eq "$(stat -f -c %S "$M")" 16384 "fundamental block size"
assert_ge "$(stat -f -c %a "$M")" 1 "free blocks"
tierfs_stop "$M"
