#!/bin/bash
# clang-format on every C file; `make format` corrects.
. "$(dirname "$0")/lib.sh"
need clang-format

mapfile -t sources < <(project_files '*.c' '*.h')
while read -r count file; do
	finding "$file: $count places"
done < <(clang-format --dry-run -Werror "${sources[@]}" 2>&1 | sed -n 's/:[0-9]*:[0-9]*: error: code should.*//p' | sort | uniq -c)
finish
