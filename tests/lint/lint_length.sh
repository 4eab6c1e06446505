#!/bin/bash
# A function of the product is at most 60 lines, one of a test 100; a file of the product 700, a line 120 columns (a tab is 8).
. "$(dirname "$0")/lib.sh"

mapfile -t sources < <(project_files 'src/*.[ch]' 'tools/*.[ch]' 'include/*.h' 'docs/*.[ch]' 'tests/*.[ch]')

# With this style a function's body is from a "{" to a "}" that stand alone in the first column.
while IFS= read -r line; do
	finding "$line"
done < <(awk '
	FNR == 1 { start = 0 }
	/^\{$/ { start = FNR; head = previous }
	/^\}/ && start {
		if (FNR - start - 1 > (FILENAME ~ "^tests/" ? 100 : 60))
			printf "%s:%d: %d lines in one function: %s\n", FILENAME, start, FNR - start - 1, head
		start = 0
	}
	{
		previous = $0
		columns = 0
		for (i = 1; i <= length($0); i++)
			columns += substr($0, i, 1) == "\t" ? 8 - columns % 8 : 1
		if (columns > 120)
			printf "%s:%d: %d columns\n", FILENAME, FNR, columns
	}' "${sources[@]}")

for file in "${sources[@]}"; do
	case $file in
	src/* | tools/* | include/*)
		lines=$(wc -l <"$file")
		[ "$lines" -le 700 ] || finding "$file: $lines lines; what two rooms are in it?"
		;;
	esac
done
finish
