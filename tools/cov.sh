#!/bin/bash
# Line coverage of what a MODE=cov build has run so far: cov.sh BUILD
set -eu

build=$1
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# gcov prints "File 'src/...'" and "Lines executed:P% of N" for each source of each object.
find "$build/obj/src" -name '*.gcda' | while IFS= read -r data; do
	gcov -n "$data" 2>/dev/null
done >"$out/gcov"
awk -F"'" '
	/^File / { file = $2; next }
	/^Lines executed:/ && file ~ /^src\// {
		split($0, part, /[:% ]+/)
		if (!(file in total) || part[3] > percent[file]) {
			percent[file] = part[3]
			total[file] = part[5]
		}
		file = ""
	}
	END {
		for (file in total) {
			printf "%6.1f%%  %5d lines  %s\n", percent[file], total[file], file
			lines += total[file]
			hit += total[file] * percent[file] / 100
		}
		if (lines)
			printf "%6.1f%%  %5d lines  all\n", 100 * hit / lines, lines
	}' "$out/gcov" | sort -k4
