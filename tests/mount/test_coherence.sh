#!/bin/bash
# timeout: 600
# Every way to write a RAM file against every way to read or copy it: the result is that of a tmpfs, or a refusal that is in the table
# of tierfs(8), "What is refused". And the table has no line that is not so.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd
need_tool jq xargs
matrix=${PROG:-$TIERFS_BUILD/tests/prog/prog_coherence}
[ -x "$matrix" ] || fail "$matrix is not built"
export matrix T

# Lines "WAY ERROR": who reads so while the file is attached gets that error.
table=$(man_table refused)
[ -n "$table" ] || fail "no table in the manual page"

cells_of() # WRITER
{
	mkdir -p "$T/scratch/$1"
	timeout 300 "$matrix" matrix "$T/mnt" "$T/scratch/$1" "$1" >"$T/cells.$1" 2>"$T/said.$1" || printf '%s - exit %s\n' "$1" "$?" >>"$T/cells.$1"
}
export -f cells_of

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.1
"$matrix" writers | xargs -P 8 -I{} bash -c 'cells_of {}'
cat "$T"/cells.* >"$T/all"

wrong=0
: >"$T/used"
while read -r writer reader result; do
	[ "$result" != right ] || continue
	if [[ $writer == *@attached ]] && grep -qx "${reader%-*} $result" <<<"$table"; then
		printf '%s %s\n' "${reader%-*}" "$result" >>"$T/used"
	else
		printf '%s read by %s: %s\n' "$writer" "$reader" "$result" >&2
		cat "$T/said.$writer" >&2
		wrong=$((wrong + 1))
	fi
done <"$T/all"
note "$(wc -l <"$T/all") cells, of which $(grep -c ' right$' "$T/all") as on a tmpfs, $(wc -l <"$T/used") refused as the manual page says, $wrong wrong"
[ "$wrong" -eq 0 ] || fail "$wrong cells are wrong"
assert_ge "$(wc -l <"$T/all")" 400 cells
assert_eq "$(sort -u "$T/used")" "$(sort -u <<<"$table")" "what was refused"
tierfs_stop "$T/mnt"
