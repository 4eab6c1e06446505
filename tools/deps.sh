#!/bin/sh
# The Debian packages that tierfs is built and tested with. Installs the missing ones as root; names them otherwise.
# Quick when nothing is missing: it asks dpkg's database, not the network.
set -eu

# One line a package: "#: PACKAGE  what for". Libraries have a list of their own.
packages="$(sed -n 's/^#: \([^ ]*\) .*/\1/p' "$0") $(sed -n 's/^\([a-z][^ ]*\) .*/\1/p' "$(dirname "$0")/libraries")"

#: gcc                        compiler
#: libc6-dev                  C library headers
#: pkg-config                 flags of the libraries
#: fuse3                      fusermount3, for tests that unmount
#: check                      unit tests
#: mount                      mount(8) and umount(8), for tests
#: procps                     ps, for tests
#: python3                    make bench
#: gnuplot-nox                plots of make bench
#: memcached                  a service that make bench loads
#: jq                         tests that read JSON
#: shellcheck                 lint of the scripts
#: clang-format               lint of the format
#: groff-base                 lint of the man pages
#: qemu-system-x86            the VM test and the demo
#: busybox-static             the VM test's initramfs

# shellcheck disable=SC2086 # a list of words
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $packages 2>/dev/null | sed -n 's/ installed$//p') || :
missing=
for package in $packages; do
	printf '%s\n' "$installed" | grep -qx "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

# Not Debian: let the compiler and the tests say what is missing.
if ! command -v dpkg-query >/dev/null 2>&1; then
	echo "deps: no dpkg here; tierfs needs what these Debian packages hold:$missing" >&2
	exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "deps: missing packages; as root: apt-get install$missing" >&2
	exit 1
fi
echo "deps: installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
install_missing() {
	apt-get install -y --no-install-recommends $missing </dev/null >>"$log" 2>&1
}
# A machine whose package lists are fresh is spared the update.
if ! install_missing && ! { apt-get update </dev/null >>"$log" 2>&1 && install_missing; }; then
	tail -n 20 "$log" >&2
	echo "deps: apt-get could not install:$missing" >&2
	exit 1
fi
