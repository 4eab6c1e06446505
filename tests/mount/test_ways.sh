#!/bin/bash
# timeout: 300
# All ways to open and map a RAM file, alone and beside another one, against the tables of tierfs(8).
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq
ways=${PROG:-$TIERFS_BUILD/tests/prog/prog_ways}
[ -x "$ways" ] || fail "$ways is not built"

mapping() { tierctl stat "$ram" --json | jq -r .mapping; }
mapping_is() { [ "$(mapping)" = "$1" ]; }

# Two programs, 1 and 2, that hold a mapping, and say what it is: attached or plain, as the mount has it, or private.
holder_pid=()
hold() # NUMBER attached|other OPEN KIND ACCESS
{
	local by=() fd=$((7 + $1))
	[ "$2" = other ] || by=(tierctl run --)
	rm -f "$T/fifo$1" && mkfifo "$T/fifo$1"
	"${by[@]}" "$ways" "$ram" "${@:3}" hold <"$T/fifo$1" >"$T/holder$1" 2>/dev/null &
	holder_pid[$1]=$!
	cleanup_push stop_process "${holder_pid[$1]}"
	eval "exec $fd>'$T/fifo$1'"
	wait_for 30 test -s "$T/holder$1" || fail "holder $1 says nothing"
}

holder_is() # NUMBER LINE: what it has
{
	assert_eq "$(head -n 1 "$T/holder$1")" "$2" "holder $1"
}

has_looked() { [ "$(wc -l <"$T/holder$1")" -ge 2 ]; }
look_again() # NUMBER: what it finds then is its second line
{
	echo >&$((7 + $1))
	wait_for 30 has_looked "$1" || fail "holder $1 does not look again"
}

let_go() # NUMBER
{
	eval "exec $((7 + $1))>&-"
	wait_for 30 gone "${holder_pid[$1]}" || fail "holder $1 does not end"
}

nobody_left()
{
	wait_for 30 mapping_is none || fail "still mapped: $(mapping)"
}

way() # announced|other OPEN KIND ACCESS
{
	if [ "$1" = announced ]; then
		tierctl run -- "$ways" "$ram" "$2" "$3" "$4" 2>/dev/null
	else
		"$ways" "$ram" "$2" "$3" "$4"
	fi
}

# The result of the first line of the table that fits; "any" fits.
wanted() # MAP FILE PROGRAM OPEN MAPPING ACCESS
{
	man_table mappings | awk -v map="$1" -v file="$2" -v program="$3" -v open="$4" -v mapping="$5" -v access="$6" '
		function fits(field, value) { return field == "any" || field == value }
		fits($1, map) && fits($2, file) && fits($3, program) && fits($4, open) && fits($5, mapping) && fits($6, access) {
			print $7
			exit
		}'
}

count=0
wrong=0
walk() # MAP FILE: what is there already
{
	local program open kind access got want
	for program in announced other; do
		for open in O_RDONLY O_RDWR; do
			for kind in shared private; do
				for access in read write; do
					got=$(way "$program" "$open" "$kind" "$access")
					want=$(wanted "$1" "$2" "$program" "$open" "$kind" "$access")
					count=$((count + 1))
					[ "$got" = "$want" ] || {
						printf 'map=%s, the file is %s, %s program, %s, %s, %s: got %s, the manual page says %s\n' \
							"$1" "$2" "$program" "$open" "$kind" "$access" "$got" "$want" >&2
						wrong=$((wrong + 1))
					}
					[ "$2" != free ] || nobody_left
				done
			done
		done
	done
}

kind_of() # attached|plain|private: the arguments of hold
{
	case $1 in
	attached) echo attached O_RDWR shared write ;;
	plain) echo other O_RDWR shared write ;;
	private) echo other O_RDONLY private read ;;
	esac
}

# What is there, what comes then, while the first one is there, and what that one finds while both are.
meet() # FIRST SECOND THE-SECOND-GETS THE-FIRST
{
	local got
	# shellcheck disable=SC2046
	hold 1 $(kind_of "$1")
	holder_is 1 "$1"
	# shellcheck disable=SC2046
	hold 2 $(kind_of "$2")
	look_again 1
	got="$(head -n 1 "$T/holder2") $(sed -n 2p "$T/holder1")"
	count=$((count + 1))
	[ "$got" = "$3 $4" ] || {
		printf '%s, then %s: the second and the first one say %s; the manual page says %s %s\n' "$1" "$2" "$got" "$3" "$4" >&2
		wrong=$((wrong + 1))
	}
	let_go 2
	let_go 1
	nobody_left
}

for map in auto attached plain; do
	note "map=$map"
	tierfs_start "$T/pool" "$T/mnt" "dram=64M,min_idle=1,map=$map"
	ram=$T/mnt/ram
	[ -e "$ram" ] || truncate -s 256K "$ram"
	walk "$map" free
	if [ "$map" != attached ]; then
		hold 1 other O_RDWR shared write
		holder_is 1 plain
		walk "$map" plain
		let_go 1
		nobody_left
	fi
	if [ "$map" != plain ]; then
		hold 1 attached O_RDWR shared write
		holder_is 1 attached
		walk "$map" attached
		let_go 1
		nobody_left
	fi
	if [ "$map" = auto ]; then
		note "one after another"
		while read -r first second gets stays; do
			meet "$first" "$second" "$gets" "$stays"
		done < <(man_table beside)
	fi
	tierfs_stop "$T/mnt"
done
note "$count ways, $wrong wrong"
assert_ge "$count" 120 ways
[ "$wrong" -eq 0 ] || fail "$wrong ways are not as the manual page says"
