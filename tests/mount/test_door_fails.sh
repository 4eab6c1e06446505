#!/bin/bash
# timeout: 60
# A door to an arena is opened by the mount point. Where that leads elsewhere by now (umount -l) nobody is refused for it: who attaches is given
# the arena, as where the kernel has no passthrough.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
need_userfaultfd

cat >"$T/late.py" <<'PY'
# Opens two files, maps the first, and the second when it is told to: late.py FILE FILE GO
import mmap, os, sys, time
files = [open(path, "r+b") for path in sys.argv[1:3]]
first = mmap.mmap(files[0].fileno(), 4 << 20)
first[0:5] = b"first"
print("ready", flush=True)
while not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
second = mmap.mmap(files[1].fileno(), 4 << 20)
second[0:6] = b"second"
print(first[0:5], second[0:6], flush=True)
PY
tierfs_start "$T/pool" "$T/mnt" dram=32M,min_idle=0.2
truncate -s 4M "$T/mnt/one" "$T/mnt/two"
start_process "$T/late.log" tierctl run --require -- python3 "$T/late.py" "$T/mnt/one" "$T/mnt/two" "$T/go"
late=$started_pid
wait_for 20 grep -q ready "$T/late.log" || fail "it does not begin: $(cat "$T/late.log")"
umount -l "$T/mnt"
touch "$T/go"
wait_for 30 gone "$late" || fail "it hangs: $(cat "$T/late.log")"
wait "$late" || fail "it ends with $?: $(cat "$T/late.log")"
grep -q "b'first' b'second'" "$T/late.log" || fail "$(cat "$T/late.log")"
wait_for 30 gone "$tierfs_pid" || fail "the daemon stays"
tierfs_start "$T/pool" "$T/mnt" dram=32M,min_idle=0.2
assert_eq "$(head -c 6 "$T/mnt/two")" second "what was written by the second mapping"
tierfs_stop "$T/mnt"
