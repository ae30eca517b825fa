#!/bin/bash
# Whether a command that was killed (as for want of memory) ends an SSH session by a signal or with status 137 is up to the
# shell, and to how the command is written. Who waits for the shell sees the signal only where the shell has become the
# command. bash and mksh do so for a command alone, and no longer where its output is redirected. dash does so for none;
# busybox's shell and ksh93 for what comes last, even after others and in braces. And ksh93's own number for it is 265:
# "exit $?" gives 9.
#
# berth: its agent tells the end of the shell, as sshd does (src/agent/session.rs, docs/PROTOCOL.md): exit-signal, which
# OpenSSH's client makes 255 of, or exit-status 137. The same command so has another status in another image.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
chmod 755 "$work"
apt-get download -q bash=5.2.15-2+b13 dash=0.5.12-2 busybox-static=1:1.35.0-4+deb12u1+b1 mksh=59c-28+deb12u1 \
    ksh93u+m=1.0.4-3 >&2
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
printf '#!/bin/sh\nkill -KILL $$\n' >killed
chmod 755 killed
cat >ends.py <<'END'
import subprocess, sys
ended = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL).returncode
print("KILL" if ended == -9 else ended)
END

seen=
for shell in bin/bash bin/dash "bin/busybox sh" bin/mksh bin/ksh93; do
    seen+="${shell#bin/}:"
    for command in './killed' './killed >file' 'true; { ./killed; }' './killed; exit $?'; do
        # shellcheck disable=SC2086
        seen+=" $(python3 ends.py $shell -c "$command")"
    done
    seen+="; "
done
echo "versions: $(echo *.deb)"
echo "for:      CMD | CMD >file | { CMD; } as the last of several | CMD; exit \$?"
echo "expected: KILL KILL 137 137, with each"
echo "seen:     $seen"
[ "$seen" = "bash: KILL 137 137 137; dash: 137 137 137 137; busybox sh: KILL KILL KILL 137; mksh: KILL 137 137 137; ksh93: KILL KILL KILL 9; " ]
