#!/bin/bash
# Who may include whom: front, map -> names -> policy -> engine -> mem, cold -> base; pool and wire beside them;
# tierctl -> move -> stream stand apart. A foreign library belongs to one file.
. "$(dirname "$0")/lib.sh"

declare -A may=(
	[src/base]='base'
	[src/wire]='wire base'
	[src/mem]='mem base'
	[src/cold]='cold base'
	[src/pool]='pool base'
	[src/engine]='engine mem cold base'
	[src/policy]='policy engine mem cold base'
	[src/names]='names policy engine mem cold base'
	[src/map]='map names policy engine pool wire base'
	[src/front]='front names policy engine pool wire base'
	[src/client]='client wire'
	[src/stream]='stream base'
	[src/move]='move stream base'
	[tools/tierctl]='tierctl move stream base'
)

# What the engine's headers carry in their own interface may be named by those above it. What is stored is sent as it lies
# there, so those who send have the format of values.
shared='cold/store.h cold/stores.h mem/budget.h mem/arena.h'
# One file puts the stores of a mount on top of each other.
of_storage='cold/store_rocks.h cold/warm.h'
of_values='cold/codec.h cold/mac.h'

for layer in "${!may[@]}"; do
	while IFS=: read -r file _ include; do
		included=${include#*\"} included=${included%%\"*}
		[[ $included == */* ]] || { [ -f "${file%/*}/$included" ] && included=${layer#*/}/$included; }
		folder=${included%%/*}
		[[ " ${may[$layer]} " == *" $folder "* ]] && continue
		# In libtierfs, only what is inline.
		[[ $layer = src/client && $included =~ ^base/(cleanup|clock).h$ ]] && continue
		[[ $layer =~ ^src/(map|front)$ && " $shared " == *" $included "* ]] && continue
		[[ $layer =~ ^(src/move|tools/tierctl)$ && " $of_values " == *" $included "* ]] && continue
		[[ $file = src/front/storage.c && " $of_storage " == *" $included "* ]] && continue
		finding "$file includes $included: $layer may include only ${may[$layer]}"
	done < <(grep -rHnE '^#include "' "$layer" --include='*.[ch]' 2>/dev/null)
done
for layer in src/*/ tools/*/; do
	layer=${layer%/}
	[ -z "$(project_files "$layer/*.[ch]")" ] || [ -n "${may[$layer]:-}" ] || finding "$layer: whom may it include?"
done

# HEADER (a regular expression) and the files that may include it.
owner()
{
	local header=$1 file
	shift
	while IFS=: read -r file _; do
		[[ " $* " == *" $file "* ]] || finding "$file includes <$header>: only $* may"
	done < <(grep -rHE "^#include <$header>" src tools --include='*.[ch]' 2>/dev/null)
}
owner 'fuse3/.*' nobody
while read -r _ _ _ _ headers owners _; do
	[ "$owners" != any ] || continue
	# shellcheck disable=SC2086 # may be patterns
	owner "$headers" ${owners//,/ }
done < <(grep -v '^#' tools/libraries)

# What a block lacks and how it comes is known in one place.
while IFS= read -r file; do
	finding "$file names BLOCK_PARTIAL: engine/partial.h has what there is to ask and to say of it"
done < <(grep -rlw BLOCK_PARTIAL src tools | grep -vE '^src/(engine/partial|mem/blocks)\.[ch]$')

# libtierfs runs inside other people's programs: system headers and its own only.
while IFS=: read -r file include; do
	case $include in
	*'<tierfs/'* | *'<sys/'* | *'<linux/'*) ;;
	*'<'*'/'*) finding "$file: $include" ;;
	esac
done < <(grep -rHE '^#include <' src/client --include='*.[ch]' 2>/dev/null)

# Nobody includes a .c file, and src/tierfs.c is the only file that may see every folder.
while IFS=: read -r file include; do
	finding "$file: $include"
done < <(grep -rHE '^#include .*\.c[">]' src tools include 2>/dev/null)

finish
