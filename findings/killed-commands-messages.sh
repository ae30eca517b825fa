#!/bin/bash
# A shell that says that a command was killed says so on standard error: bash on its own, but dash, busybox's and mksh on the
# command's, so that "Killed" is in the file, or the pipe, to which that was redirected. ksh93 does, too, and puts it into the
# variable that was to have the command's output; bash says nothing there at all.
#
# berth: its users' commands run in their image's shell (docs/PROTOCOL.md, section 8). A test, or a person, that looks for
# "Killed" on the session's standard error, or takes a command's redirected output for the command's own, is right with bash
# images alone. What berth itself says of a container's end is on the session's, and does not depend on a shell.
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

seen=
for shell in bin/bash bin/dash "bin/busybox sh" bin/mksh bin/ksh93; do
    # More than one command, so that the shell is there when the first one ends.
    $shell -c './killed 2>commands; exit 0' 2>own
    $shell -c 'text=$(./killed 2>&1); echo "$text" >text; exit 0' 2>/dev/null
    for file in own commands text; do
        grep -q Killed "$file" && seen+="${shell#bin/}: $file; "
    done
done
echo "versions: $(echo *.deb)"
echo "expected: bash: own; dash: own; busybox sh: own; mksh: own; ksh93: own;"
echo "seen:     $seen"
[ "$seen" = "bash: own; dash: commands; busybox sh: commands; mksh: commands; ksh93: commands; ksh93: text; " ]
