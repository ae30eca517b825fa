#!/bin/bash
# Debian 12's musl-gcc takes gcc's option for a static position-independent executable, says nothing, and makes a program
# that asks for a dynamic linker: the option is not among those that the wrapper's specs know. Debian 13's know it.
#
# berth: with Debian's packages alone its binary has a fixed address (docs/building.md). rustup's Rust brings its own start
# files, and links without the wrapper's.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=1.2.3-1

cd "$work"
chmod 755 "$work"
apt-get download -q "musl-tools=$version" "musl-dev=$version" "musl=$version" >&2
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
# What the wrapper does is to name its specs, by a path.
specs=$(echo usr/lib/*-linux-musl/musl-gcc.specs)
sed -i "s|/usr/|$work/usr/|g" "$specs"
printf 'int main(void) { return 0; }\n' >program.c
gcc program.c -static-pie -o program -specs "$specs"

seen=$(readelf --wide --program-headers program | grep -o 'program interpreter: [^]]*' || true)
echo "versions: musl-tools $version, $(gcc --version | head -n 1)"
echo "expected: a static program, as gcc -static-pie makes one: no program interpreter"
echo "seen:     ${seen:-no program interpreter}"
[ -n "$seen" ]
