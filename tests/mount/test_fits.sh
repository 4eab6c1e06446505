#!/bin/bash
# A budget that all files together cannot exceed: whatever they do, nothing has to go and nobody waits, to the last byte. One more file,
# and it is a budget again.
. "$(dirname "$0")/../lib/functions.sh"

figure() { tierctl stat --json "$T/mnt" | jq ".$1"; }

tierfs_start "$T/pool" "$T/mnt" dram=64M,min_idle=0.2
truncate -s 64M "$T/mnt/ram"
cat >"$T/user.py" <<'PY'
import mmap, sys, time
path, seconds = sys.argv[1], float(sys.argv[2])
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
for page in range(0, len(memory), 4096):
    memory[page:page + 16] = b"%016d" % page
print("ready", flush=True)
time.sleep(seconds)
for page in range(0, len(memory), 4096):
    assert memory[page:page + 16] == b"%016d" % page, page
PY

note "all of it is in use, and rests for ten times min_idle"
tierctl run -- python3 "$T/user.py" "$T/mnt/ram" 2 || fail "the program: exit $?"
assert_eq "$(figure demotions)" 0 demotions
assert_eq "$(figure waited_faults)" 0 "faults that waited"
assert_eq "$(figure resident_bytes)" $((64 << 20)) "resident bytes"

note "demoted, and promoted again as a whole"
tierctl demote "$T/mnt/ram" >/dev/null || fail demote
demoted=$(figure demotions)
assert_eq "$(figure resident_bytes)" 0 "resident bytes"
tierctl promote "$T/mnt/ram" >/dev/null || fail promote
assert_eq "$(figure resident_bytes)" $((64 << 20)) "resident bytes"
sleep 1
assert_eq "$(figure demotions)" "$demoted" demotions

note "another file"
truncate -s 32M "$T/mnt/more"
tierctl run -- python3 "$T/user.py" "$T/mnt/more" 0 || fail "the program: exit $?"
assert_ge "$(figure demotions)" $((demoted + (32 << 20) / 16384)) demotions
[ "$(figure resident_bytes)" -le $((64 << 20)) ] || fail "$(figure resident_bytes) bytes are resident"

note "without it again"
rm "$T/mnt/more"
tierctl promote "$T/mnt/ram" >/dev/null || fail promote
assert_eq "$(figure resident_bytes)" $((64 << 20)) "resident bytes"
tierfs_stop "$T/mnt"
