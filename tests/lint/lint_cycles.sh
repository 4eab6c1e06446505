#!/bin/bash
# Files of a folder that call each other have one room too few. By the symbols of the objects of the debug build: a file
# rests on every file of its folder that defines what it takes, also if it only passes it on. No circle may come of that.
. "$(dirname "$0")/lib.sh"
need nm
build=${TIERFS_BUILD:-build/debug}

# "USER OWNER" for each two files of the folder of which one takes a symbol of the other.
edges() # OBJECT...
{
	nm -A -P "$@" | awk '{ file = $1; sub(/.*\//, "", file); sub(/\.o:$/, ".c", file); print $3 == "U" ? "U" : "D", $2, file, $3 }' | sort |
		awk '$1 == "D" && $4 ~ /[A-Z]/ { owner[$2] = $3 } $1 == "U" && ($2 in owner) { print $3, owner[$2] }' | sort -u
}

# One line for each circle: its files. Who can be reached from each other are in one.
circles()
{
	awk '
	{ to[$1, $2] = 1; name[$1] = name[$2] = 1 }
	END {
		for (middle in name)
			for (from in name)
				if ((from, middle) in to)
					for (end in name)
						if ((middle, end) in to)
							to[from, end] = 1
		for (from in name)
			for (end in name)
				if ((from, end) in to && (end, from) in to)
					print from, end
	}' | sort | awk '
	$1 != first { if (first) print line; first = $1; line = $2; next }
	{ line = line " " $2 }
	END { if (first) print line }' | sort -u
}

for folder in src/*/; do
	folder=${folder%/} folder=${folder#src/}
	ls src/"$folder"/*.c >/dev/null 2>&1 || continue
	objects=()
	for source in src/"$folder"/*.c; do
		object=$build/obj/${source%.c}.o
		[ -f "$object" ] || object=$build/obj/preload/${source%.c}.o # what only the preload library has
		if [ "$source" -nt "$object" ]; then
			echo "needs the objects of $build: make tests"
			exit 77
		fi
		objects+=("$object")
	done
	while read -r circle; do
		[ -z "$circle" ] || finding "src/$folder: a circle of files: $circle"
	done < <(edges "${objects[@]}" | circles)
done
finish
