#!/bin/bash
# Runs the benchmarks: run.sh [OPTION...] [CASE...], see bench.py. TIERFS_BUILD is the build to measure; what is found goes to
# BENCH_OUT (build/bench).
set -u

here=$(cd "$(dirname "$0")" && pwd) || exit 1
top=$(cd "$here/../.." && pwd) || exit 1
command -v python3 >/dev/null 2>&1 || {
	echo 'benchmarks: need python3' >&2
	exit 1
}
export PYTHONDONTWRITEBYTECODE=1
exec python3 "$here/bench.py" --build "${TIERFS_BUILD:-$top/build/release}" --out "${BENCH_OUT:-$top/build/bench}" "$@" </dev/null
