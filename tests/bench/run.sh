#!/bin/bash
# Runs the benchmarks, tests/bench/bench_NAME.sh, one after the other; with arguments only those. Each prints a table of what it
# measured beside what it is measured against, from one run, and exits 77 where the host cannot run it.
set -u

cd "$(dirname "$0")" || exit 1
[ $# -gt 0 ] || set -- bench_*.sh
failed=0
for bench in "$@"; do
	bench=${bench##*/} bench=${bench%.sh}.sh
	[ -x "$bench" ] || continue
	echo "== ${bench%.sh}"
	"./$bench" </dev/null
	case $? in
	0) ;;
	77) echo "(skipped)" ;;
	*) failed=1 ;;
	esac
done
exit "$failed"
