#!/bin/bash
# OpenSSH's scp copies a file whose server answers a READ with less than was asked for, says nothing, ends with 0, and has
# kept the first two answers alone: it asks for the rest of each, takes that for an answer out of order, and in the end cuts
# the file off where the order was last right. sftp, by the same code, cuts nothing off. Files of /proc and of some file
# systems are read in such pieces, whatever is asked for, and sftp-server sends what it has read.
#
# berth: its SFTP server reads on until it has what was asked for, or the end of the file (src/agent/sftp/session.rs).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=1:9.2p1-2+deb12u10
file=/proc/kallsyms

cd "$work"
chmod 755 "$work"
apt-get download -q "openssh-client=$version" "openssh-sftp-server=$version" >&2
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
server=$work/usr/lib/openssh/sftp-server
# -D: no connection, the server is a child.
status=0
usr/bin/scp -q -D "$server" "host:$file" by-scp || status=$?
echo "get $file by-sftp" | usr/bin/sftp -q -b - -D "$server" >/dev/null

whole=$(wc -c <"$file")
scp=$(wc -c <by-scp)
sftp=$(wc -c <by-sftp)
echo "versions: openssh-client and openssh-sftp-server $version"
echo "expected: of $whole bytes scp has copied $whole, as sftp has, or ends with another status than 0"
echo "seen:     scp has copied $scp with status $status, and sftp $sftp"
[ "$status" = 0 ] && [ "$scp" -lt 10000 ] && [ "$sftp" -ge "$whole" ]
