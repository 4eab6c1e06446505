#!/bin/bash
# Man pages: groff must be silent (it exits 0 even on undefined macros), and every page has the usual sections.
. "$(dirname "$0")/lib.sh"
need groff

mapfile -t pages < <(project_files 'docs/man/*.[1-8]')
for page in "${pages[@]}"; do
	said=$(groff -man -ww -z -K utf8 -Tutf8 "$page" 2>&1)
	[ -z "$said" ] || finding "$said"
	for section in NAME SYNOPSIS DESCRIPTION; do
		grep -qE "^\.SH \"?$section\"?$" "$page" || finding "$page: no section $section"
	done
done
finish
