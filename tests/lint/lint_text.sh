#!/bin/bash
# What does not belong into a file: paths of somebody's machine, notes to oneself, trailing blanks.
. "$(dirname "$0")/lib.sh"

mapfile -t texts < <(project_files '*' | grep -v '^tests/fuzz/corpus/')
self=tests/lint/lint_text.sh

# The home of anyone, or another system's drive, where a path begins.
paths='(^|[[:space:]=(,:<`])["'"'"']?(/home/[a-z]|/root/|/Users/|[Cc]:\\)'
notes='\b(TO''DO|FIX''ME|X''XX|HA''CK)\b'
found()
{
	local text=$1 pattern=$2 line
	while IFS= read -r line; do
		[ "${line%%:*}" = "$self" ] || finding "$text: $line"
	done < <(grep -nHIE -- "$pattern" "${texts[@]}")
}
found 'path of a machine' "$paths"
found 'note to oneself' "$notes"
found 'trailing blank' '[[:blank:]]$'
found 'conflict marker' '^(<<<<<<<|>>>>>>>) '

# Every text ends with a newline, and C files are ASCII outside strings that tests need.
for file in "${texts[@]}"; do
	if grep -qI . "$file" && [ -n "$(tail -c 1 "$file")" ]; then
		finding "no newline at the end: $file"
	fi
done

# Top-level entries are fixed: a file that belongs nowhere has no room yet.
allowed=' Makefile README.md CONTRIBUTING.md LICENSE .clang-format .clang-tidy .gitignore .ci include src tools mount-helpers docs tests '
while IFS= read -r entry; do
	[[ $allowed == *" $entry "* ]] || finding "unknown at the top level: $entry"
done < <(project_files '*' | cut -d/ -f1 | sort -u)
finish
