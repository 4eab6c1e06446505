#!/bin/bash
# Documents name files that exist: `path` in backquotes and links, when they look like paths of the tree. NAME stands for any name.
. "$(dirname "$0")/lib.sh"

while IFS= read -r document; do
	while IFS= read -r path; do
		[[ $path != *NAME* ]] || continue
		# shellcheck disable=SC2086 # may be a pattern
		ls -d $path >/dev/null 2>&1 || finding "$document names $path, which is not there"
	done < <(
		{
			# shellcheck disable=SC2016 # the backquotes are the document's
			grep -oE '`(src|include|tests|tools|docs|mount-helpers)/[A-Za-z0-9_./*-]+`' "$document" | tr -d '`'
			grep -oE '\]\([A-Za-z][A-Za-z0-9_./-]*\)' "$document" | sed 's/^](//; s/)$//' | while IFS= read -r link; do
				printf '%s\n' "$(dirname "$document")/$link"
			done
		} | sort -u
	)
done < <(project_files '*.md')
finish
