#!/bin/bash
# A stored block is damaged on the disk and two programs are poisoned by it. When it is written, or discarded, both go on.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq

ask() # NUMBER PAGE: what the program says
{
	echo "$2" >&"${to[$1]}"
	read -r -t 30 -u "${from[$1]}" answer || answer=nothing
}

says() # NUMBER PAGE ANSWER
{
	ask "$1" "$2"
	[ "$answer" = "$3" ]
}

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=1
head -c 1M /dev/urandom >"$T/data"
dd if="$T/data" of="$T/mnt/ram" bs=64K oflag=direct status=none

note "values overwritten on the disk"
damage_values "$T/pool"
to=() from=() program=()
for number in 0 1; do
	mkfifo "$T/to$number" "$T/from$number"
	tierctl run "$TIERFS_BUILD/tests/prog/prog_poison" "$T/mnt/ram" <"$T/to$number" >"$T/from$number" 2>"$T/said$number" &
	program+=($!)
	cleanup_push stop_process $!
	exec {fd}>"$T/to$number"
	to+=("$fd")
	exec {fd}<"$T/from$number"
	from+=("$fd")
	read -r -t 30 -u "$fd" answer || fail "the program does not start: $(cat "$T/said$number")"
	for page in 0 1 8; do
		ask "$number" "$page"
		assert_eq "$answer" dies "program $number, page $page"
	done
done

note "one block is written, one discarded"
head -c 16K /dev/zero | tr '\0' A >"$T/block"
dd if="$T/block" of="$T/mnt/ram" bs=16K conv=notrunc oflag=direct status=none
fallocate --punch-hole --offset 32K --length 16K "$T/mnt/ram"
for number in 0 1; do
	wait_for 30 says "$number" 0 65 || fail "program $number, what was written: $answer"
	wait_for 30 says "$number" 1 65 || fail "program $number, what was written: $answer"
	wait_for 30 says "$number" 8 0 || fail "program $number, what was discarded: $answer"
	ask "$number" 4
	assert_eq "$answer" dies "program $number, what is damaged still"
done
for fd in "${to[@]}" "${from[@]}"; do
	exec {fd}>&-
done
wait_for 30 gone "${program[0]}" || fail "a program does not end"
wait_for 30 gone "${program[1]}" || fail "a program does not end"
tierfs_stop "$T/mnt"
