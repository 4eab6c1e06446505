# Shared by the lint scripts: the files that are looked at, and how a finding is reported.
# shellcheck shell=bash
set -u
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

# Files that belong to the project, by pattern: git knows, and in an unpacked archive all there is but build/.
project_files() # PATTERN...
{
	local pattern
	if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
		git ls-files -co --exclude-standard -- "$@" | while IFS= read -r file; do
			[ ! -f "$file" ] || printf '%s\n' "$file"
		done
	else
		for pattern in "$@"; do
			find . -path ./build -prune -o -type f -path "./$pattern" -print | sed 's:^\./::'
		done
	fi
}

shell_scripts()
{
	project_files '*' | while IFS= read -r file; do
		case $file in
		*.sh) printf '%s\n' "$file" ;;
		*) head -n 1 "$file" | tr -d '\0' | grep -qaE '^#!.*/(ba|da)?sh' && printf '%s\n' "$file" ;;
		esac
	done
}

need() # TOOL
{
	command -v "$1" >/dev/null 2>&1 || {
		echo "needs $1"
		exit 77
	}
}

findings=0
finding() # TEXT
{
	printf '%s\n' "$*"
	findings=$((findings + 1))
}

finish()
{
	[ "$findings" -eq 0 ] || exit 1
}
