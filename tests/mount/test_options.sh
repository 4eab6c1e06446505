#!/bin/bash
# Bad options, bad places, bad pools: one line that names what is wrong, exit 1, nothing mounted, nothing touched.
. "$(dirname "$0")/../lib/functions.sh"

need_root
need_fuse
M=$T/mnt
mkdir "$M"
good=dram=32M

# The daemon must not start: one line that matches, exit 1, and no trace.
refused() # PATTERN TIERFS-ARGUMENT...
{
	local pattern=$1 before
	shift
	before=$(grep -F " $T" /proc/self/mountinfo)
	assert_status 1 tierfs "$@"
	assert_match "$out" "$pattern" "message of tierfs $*"
	assert_eq "$(printf '%s\n' "$out" | wc -l)" 1 "lines of message of tierfs $* ($out)"
	assert_eq "$(grep -F " $T" /proc/self/mountinfo)" "$before" "mounts after: $out"
}

note "options"
refused 'dram' "$T/pool" "$M"
refused 'dram=' -o block=16K "$T/pool" "$M"
refused 'dram' -o dram "$T/pool" "$M"
refused 'dram=' -o dram= "$T/pool" "$M"
refused 'dram=x' -o dram=x "$T/pool" "$M"
refused 'dram=-1M' -o dram=-1M "$T/pool" "$M"
refused 'dram=4K' -o dram=4K "$T/pool" "$M"
refused 'dram=99999999999T' -o dram=99999999999T "$T/pool" "$M"
refused 'block=3K' -o $good,block=3K "$T/pool" "$M"
refused 'block=12K' -o $good,block=12K "$T/pool" "$M"
refused 'block=2M' -o $good,block=2M "$T/pool" "$M"
refused 'level=-1' -o $good,level=-1 "$T/pool" "$M"
refused 'level=20' -o $good,level=20 "$T/pool" "$M"
refused 'level=fast' -o $good,level=fast "$T/pool" "$M"
refused 'map=sometimes' -o $good,map=sometimes "$T/pool" "$M"
refused 'min_idle=0' -o $good,min_idle=0 "$T/pool" "$M"
refused 'min_idle=soon' -o $good,min_idle=soon "$T/pool" "$M"
refused 'warm=1M.*at least 4M' -o $good,warm=1M "$T/pool" "$M"
refused 'warm=1024M.*half of dram' -o $good,warm=1G "$T/pool" "$M"
refused 'allow_other=yes' -o $good,allow_other=yes "$T/pool" "$M"
refused 'uid=root' -o $good,uid=root "$T/pool" "$M"
refused 'uid=4294967295' -o $good,uid=4294967295 "$T/pool" "$M"
refused 'gid=-1' -o $good,gid=-1 "$T/pool" "$M"
refused 'mode=0688' -o $good,mode=0688 "$T/pool" "$M"
refused 'mode=7777' -o $good,mode=7777 "$T/pool" "$M"
refused 'drams=1G' -o $good,drams=1G "$T/pool" "$M"
refused 'nonsense' -o $good,nonsense "$T/pool" "$M"
refused 'ro' -o $good,ro "$T/pool" "$M"
refused 'ro' -s -o $good,ro "$T/pool" "$M"
refused 'POOL and MOUNTPOINT' -o $good "$T/pool"
refused 'POOL and MOUNTPOINT' -o $good "$T/pool" "$M" more
refused "invalid option" -Z -o $good "$T/pool" "$M"
[ ! -e "$T/pool" ] || fail "a refused start made the pool"

note "places"
refused "$T/absent.*No such file" -o $good "$T/pool" "$T/absent"
: >"$T/file"
refused "$T/file.*Not a directory" -o $good "$T/pool" "$T/file"
[ ! -e "$T/pool" ] || fail "a refused mount point made the pool"
refused "$T/no/pool.*No such file" -o $good "$T/no/pool" "$M"
refused "$T/file.*Not a directory|$T/file.*File exists" -o $good "$T/file" "$M"
mkdir "$M/pool"
refused 'below' -o $good "$M/pool" "$M"
rm -rf "${M:?}/pool"

note "pools"
mkdir "$T/foreign"
echo mine >"$T/foreign/letter"
refused 'neither empty nor a tierfs pool' -o $good "$T/foreign" "$M"
assert_eq "$(ls -A "$T/foreign")" letter "foreign directory"
conf() # LINES...: a pool of that superblock
{
	rm -rf "$T/other"
	mkdir "$T/other"
	printf '%s\n' "$@" >"$T/other/pool.conf"
	cp "$T/other/pool.conf" "$T/conf"
}
untouched()
{
	cmp "$T/other/pool.conf" "$T/conf" || fail "pool.conf was changed"
	assert_eq "$(ls -A "$T/other")" pool.conf "content of a refused pool"
}
conf 'tierfs pool' 'version 2' 'something new'
refused 'another format version' -o $good "$T/other" "$M" && untouched
conf 'tierfs pool' 'version 1' 'id 0123456789abcdef' 'block_bytes 65536'
refused 'block=64K.*block=16K' -o $good,block=16K "$T/other" "$M" && untouched
for bad in 'block_bytes 0' 'block_bytes 12288' 'block_bytes' 'block_bytes 65536 ' 'level 3'; do
	conf 'tierfs pool' 'version 1' 'id 0123456789abcdef' "$bad"
	refused 'damaged' -o $good "$T/other" "$M" && untouched
done
conf 'tierfs pool' 'version 1' 'id 0123456789ABCDEF' 'block_bytes 65536'
refused 'damaged' -o $good "$T/other" "$M" && untouched
conf 'something else'
refused 'damaged, or not of a tierfs pool' -o $good "$T/other" "$M" && untouched
head -c 10000 /dev/zero >"$T/other/pool.conf" && cp "$T/other/pool.conf" "$T/conf"
refused 'damaged, or not of a tierfs pool' -o $good "$T/other" "$M" && untouched

note "in use"
tierfs_start "$T/pool" "$M" $good,block=4K
mkdir "$T/mnt2"
refused "in use by another tierfs, process $tierfs_pid" -o $good "$T/pool" "$T/mnt2"
assert_eq "$(cat "$T/pool/lock")" "$tierfs_pid" "lock file after a refused start"
refused 'mounted there already' -o $good "$T/pool2" "$M"
[ ! -e "$T/pool2" ] || fail "a busy mount point made a pool"
assert_ok stat "$M" >/dev/null
tierfs_stop "$M"

note "a copy of a pool has its id"
cp -a "$T/pool" "$T/copy"
tierfs_start "$T/pool" "$M" $good
refused 'same id' -o $good "$T/copy" "$T/mnt2"
assert_ok stat "$M" >/dev/null
tierfs_stop "$M"

note "what mount(8) and fstab add is accepted"
tierfs_start "$T/pool" "$M" \
	"rw,defaults,noauto,nofail,_netdev,user,nodev,nosuid,noexec,noatime,relatime,x-systemd.automount,comment=ours,,$good"
tierfs_stop "$M"
tierfs_start "$T/pool" "$M" "$good,unheard-of=1" -s
tierfs_stop "$M"

note "an ordinary user is told why not"
chmod 755 "$T"
assert_status 1 setpriv --reuid 65534 --regid 65534 --clear-groups "$(command -v tierfs)" -o $good "$T/pool" "$M"
assert_match "$out" 'must be run as root'

note "help and version"
assert_match "$(tierfs --help)" 'dram=SIZE.*min_idle=SECONDS'
assert_match "$(tierfs --version)" '^tierfs [0-9]'
