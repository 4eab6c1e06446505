#!/bin/bash
# Who may include whom: front, map -> core -> mem, cold -> base; move -> stream stand beside them. A foreign library belongs to one file.
. "$(dirname "$0")/lib.sh"

declare -A may=(
	[base]='base'
	[mem]='mem base'
	[cold]='cold base'
	[core]='core mem cold base'
	[map]='map core base'
	[front]='front core base'
	[client]='client'
	[stream]='stream base'
	[move]='move stream base'
)

# What core's headers carry in their own interface may be named by those above it.
shared='cold/store.h mem/budget.h mem/arena.h'

for layer in "${!may[@]}"; do
	while IFS=: read -r file _ include; do
		included=${include#*\"} included=${included%%\"*}
		[[ $included == */* ]] || { [ -f "${file%/*}/$included" ] && included=$layer/$included; }
		folder=${included%%/*}
		[[ " ${may[$layer]} " == *" $folder "* ]] && continue
		# In libtierfs, only what is inline or is compiled into it (wire.c).
		[[ $layer = client && $included =~ ^base/(cleanup|clock|wire).h$ ]] && continue
		[[ $layer =~ ^(map|front)$ && " $shared " == *" $included "* ]] && continue
		# What is stored is sent as it lies there.
		[[ $layer = move && $included =~ ^cold/(codec|mac).h$ ]] && continue
		finding "$file includes $included: src/$layer may include only ${may[$layer]}"
	done < <(grep -rHnE '^#include "' "src/$layer" --include='*.[ch]' 2>/dev/null)
done

# HEADER (a regular expression) and the files that may include it.
owner()
{
	local header=$1 file
	shift
	while IFS=: read -r file _; do
		[[ " $* " == *" $file "* ]] || finding "$file includes <$header>: only $* may"
	done < <(grep -rHE "^#include <$header>" src --include='*.[ch]' 2>/dev/null)
}
owner 'liburing\.h' src/base/loop.c
owner 'zstd[a-z_]*\.h' src/cold/codec.c
owner 'lz4[a-z_]*\.h' src/cold/codec.c
owner 'xxhash\.h' src/cold/codec.c src/stream/stream.c
owner 'openssl/.*' src/cold/mac.c
owner 'rocksdb/.*' src/cold/rocks.c
owner 'fuse[a-z_]*\.h' "$(echo src/front/fuse*.c src/front/fuse*.h)"
owner 'fuse3/.*' nobody
owner 'bpf/.*' src/map/pins_prog.c

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
