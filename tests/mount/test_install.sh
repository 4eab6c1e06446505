#!/bin/bash
# make install into a directory of one's own, without root: what is there runs from there, and finds its other parts there.
. "$(dirname "$0")/../lib/functions.sh"
need_tool make pkg-config gcc

prefix="$T/prefix"
note "what make and make install build is the release build, hardened; what is tested is the debug build"
plan() # MAKE-ARGUMENT...: the commands that it would run
{
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u MODE -u BUILD make -C "$TIERFS_SRC" --no-print-directory -n V=1 "$@" 2>/dev/null
}
for goal in all install demo; do
	assert_eq "$(plan $goal | grep -o 'build/[a-z]*/obj' | sort -u)" build/release/obj "where make $goal builds"
done
assert_eq "$(plan check | grep -o 'build/[a-z]*/obj' | sort -u)" build/debug/obj "where make check builds"
compile=$(plan BUILD="$T/none" install | grep -m 1 'src/tierfs\.c')
for flag in -DNDEBUG -O2 -D_FORTIFY_SOURCE=3 -ftrivial-auto-var-init=zero -fcf-protection=full -fstack-clash-protection \
	-fstack-protector-strong; do
	assert_match "$compile" "(^| )$flag( |\$)" "flags of make install"
done
assert_match "$(plan BUILD="$T/none" tests | grep -m 1 'src/tierfs\.c')" '-DTIERFS_DEBUG' "flags of make tests"

cd "$TIERFS_SRC" || fail "no source"
install_into() # MAKE-ARGUMENT...
{
	make --no-print-directory MODE="${TIERFS_MODE:-debug}" BUILD="$TIERFS_BUILD" "$@" >"$T/make.log" 2>&1 ||
		fail "make $*: $(tail -n 5 "$T/make.log")"
}
# The part of "make install" that comes after building: a test of what was built does not build anew.
install_into install-files PREFIX="$prefix"

note "every part is there"
for file in bin/tierfs bin/tierctl sbin/mount.tierfs lib/libtierfs.so lib/libtierfs.a lib/tierfs/libtierfs-preload.so \
	include/tierfs/tierfs.h lib/pkgconfig/tierfs.pc share/man/man8/tierfs.8 lib/systemd/system/tierfs@.service; do
	[ -e "$prefix/$file" ] || fail "$file is not installed"
done

assert_ok grep -qx "ExecStart=$prefix/bin/tierfs .*" "$prefix/lib/systemd/system/tierfs@.service"
if command -v systemd-analyze >/dev/null; then
	said=$(systemd-analyze verify --man=no "$prefix/lib/systemd/system/tierfs@.service" 2>&1 | grep "tierfs@")
	assert_eq "$said" "" "what systemd says of the unit"
fi

note "the programs start, from anywhere"
cd / || fail "no /"
PATH=$prefix/bin:/usr/bin:/bin
hash -r
assert_eq "$(command -v tierctl)" "$prefix/bin/tierctl"
tierfs --help >"$T/help" || fail "tierfs --help: exit $?"
assert_ok grep -q 'dram=SIZE' "$T/help"
tierctl --help >"$T/help" || fail "tierctl --help: exit $?"
# shellcheck disable=SC2016 # for the other shell
preloaded=$(tierctl run -- /bin/sh -c 'echo "$LD_PRELOAD"')
assert_match "$preloaded" "libtierfs-preload.so"
assert_eq "$(readlink -f "${preloaded%%[: ]*}")" "$(readlink -f "$prefix/lib/tierfs/libtierfs-preload.so")"

note "a program builds against it"
cat >"$T/x.c" <<-'END'
	#include <stdio.h>
	#include <tierfs/tierfs.h>

	int main(void)
	{
		printf("%d\n", tierfs_info(0, NULL));
		return 0;
	}
END
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
read -ra flags < <(pkg-config --cflags --libs tierfs)
assert_ok gcc -o "$T/x" "$T/x.c" "${flags[@]}"
# -ENOTTY: standard input is not tierfs
assert_eq "$(LD_LIBRARY_PATH=$prefix/lib "$T/x")" -25 "tierfs_info of something else"

note "a staged installation, and its removal"
cd "$TIERFS_SRC" || fail "no source"
install_into install-files DESTDIR="$T/stage" PREFIX=/usr
assert_ok grep -qx 'prefix=/usr' "$T/stage/usr/lib/pkgconfig/tierfs.pc"
install_into uninstall DESTDIR="$T/stage" PREFIX=/usr
assert_eq "$(find "$T/stage" ! -type d)" "" "left after uninstall"
