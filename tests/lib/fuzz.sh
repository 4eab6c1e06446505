#!/bin/bash
# Runs fuzzers for some seconds each: fuzz.sh SECONDS FUZZER... New inputs stay in the build directory; an input that fails is
# kept there as well, to be added to tests/fuzz/corpus/NAME once it is understood.
set -u

source_dir=$(cd "$(dirname "$0")/../.." && pwd)
seconds=$1
shift
failed=0
for fuzzer in "$@"; do
	name=${fuzzer##*/fuzz_}
	found=${fuzzer%/*}/found_$name
	seeds=$source_dir/tests/fuzz/corpus/$name
	mkdir -p "$found" "$seeds"
	if "$fuzzer" -max_total_time="$seconds" -artifact_prefix="$found/crash-" "$found" "$seeds" >"$found.log" 2>&1; then
		echo "ok    $name ($(grep -c '^#' "$found.log") reports, $(find "$found" -type f | wc -l) inputs)"
	else
		tail -n 30 "$found.log"
		echo "FAIL  $name"
		failed=$((failed + 1))
	fi
done
echo "$(($# - failed)) passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
