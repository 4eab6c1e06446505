#!/bin/bash
# Every script passes shellcheck, and is named so that it is run.
. "$(dirname "$0")/lib.sh"
need shellcheck

mapfile -t scripts < <(shell_scripts)
# SC1091, SC2154: files and variables that a sourced file brings.
shellcheck -x -e SC1091,SC2154 "${scripts[@]}" || finding "shellcheck has something to say"
for script in "${scripts[@]}"; do
	case $script in
	tests/mount/* | tests/fault/* | tests/vm/*)
		case ${script##*/} in
		test_*) [ -x "$script" ] || finding "$script is not executable" ;;
		lib*.sh | demo.sh | make_*.sh) ;;
		*) finding "$script: a test is called test_NAME.sh (or it is never run), a helper lib_NAME.sh or make_NAME.sh" ;;
		esac
		;;
	esac
done
finish
