# Two mounts of two daemons, for what moves between them. Sourced after functions.sh.
#
#   two_mounts OPTIONS [OPTIONS]   starts them: pools $T/pool1 and $T/pool2, mounts $T/one and $T/two; the second options are those of the
#                                  second mount (default: the same)
#   two_mounts_stop                unmounts both
# shellcheck shell=bash

two_mounts()
{
	tierfs_start "$T/pool1" "$T/one" "$1"
	two_mounts_pid=$tierfs_pid
	tierfs_start "$T/pool2" "$T/two" "${2:-$1}"
}

two_mounts_stop()
{
	tierfs_stop "$T/two"
	tierfs_pid=$two_mounts_pid
	tierfs_stop "$T/one"
}

# Fills MiB of FILE from an offset: a quarter of each 16 KiB is random, the rest is text.
fill_mixed() # FILE OFFSET-MIB MIB
{
	local seed
	seed=$(head -c 3000000 /dev/urandom | base64 -w 0 | head -c $((1 << 20)))
	for ((i = 0; i < $3; i++)); do
		head -c 262144 /dev/urandom
		printf '%s' "${seed:i:1000}" | head -c 786432
		head -c $((786432 - $(printf '%s' "${seed:i:1000}" | wc -c))) /dev/zero | tr '\0' 'x'
	done | dd of="$1" bs=1M seek="$2" oflag=direct iflag=fullblock conv=notrunc status=none || fail "cannot fill $1"
}

# What a move must not change: everything of the map but where a run begins or ends.
map_of() # FILE
{
	tierctl map "$1" --json | jq -c '[.runs[] | {offset, length, state, generation, tier}]'
}
