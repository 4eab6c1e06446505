#!/bin/bash
# Documents name files that exist: `path` in backquotes and links, when they look like paths of the tree. NAME stands for any name.
# A `function()` is one of the sources. Pages that are read from top to bottom fit a window.
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

# shellcheck disable=SC2016 # the backquotes are the document's
while IFS=: read -r document name; do
	name=${name//[\`()]/}
	grep -rqw -- "$name" src include tools tests || finding "$document names $name(), which is not there"
done < <(project_files '*.md' | xargs grep -HoE '`[a-z][a-z_0-9]*\(\)`' | sort -u)

columns=150
while IFS= read -r document; do
	while IFS=: read -r line _; do
		finding "$document:$line: more than $columns columns"
	done < <(grep -nE "^.{$((columns + 1))}" "$document")
done < <(project_files '*.md' | grep -v '^docs/format/')
finish
