#!/bin/bash
# Every header compiles alone, and the public ones as C++ too.
. "$(dirname "$0")/lib.sh"

flags=(-D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Iinclude -Isrc -Wall -Wextra -fsyntax-only)
read -ra fuse < <(pkg-config --cflags fuse3 smartcols 2>/dev/null) || fuse=()
while IFS= read -r header; do
	printf '#include "%s"\n' "$PWD/$header" |
		gcc -std=gnu17 "${flags[@]}" "${fuse[@]}" -x c - || finding "$header does not compile alone"
	head -n 20 "$header" | grep -q '^#pragma once$' || grep -q '^#pragma once$' "$header" || finding "$header: no #pragma once"
done < <(project_files 'include/tierfs/*.h' 'src/*.h')

if command -v g++ >/dev/null 2>&1; then
	printf '#include <tierfs/tierfs.h>\n' | g++ -std=c++17 -D_GNU_SOURCE -Iinclude -Wall -Wextra -fsyntax-only -x c++ - ||
		finding "include/tierfs/tierfs.h is not C++"
fi
finish
