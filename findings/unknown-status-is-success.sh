#!/bin/bash
# PuTTY's plink and Dropbear's client end with 0, and say nothing, where they have heard no exit status: the channel was closed
# without one, or it came too late. They close the channel once both sides have sent EOF, though the program still runs, and a
# server that answers that with CLOSE at once, as RFC 4254, 5.3, has it, gives none any more. So a command that fails some
# time after its output has ended is a success. Where Dropbear's hears DISCONNECT, even before its login, that is one, too.
#
# berth: as sshd, its agent answers CLOSE with the exit status, and then CLOSE, once the program has ended
# (docs/PROTOCOL.md, section 6), and a session without a container has a status of its own (src/ssh/early.rs). Whom it turns
# away, and who is there when it ends, hears DISCONNECT (src/ssh/connection.rs): a success to Dropbear's client.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
chmod 755 "$work"
apt-get download -q openssh-client=1:9.2p1-2+deb12u10 dropbear-bin=2022.83-1+deb12u3 putty-tools=0.78-2+deb12u2 >&2
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
python3 -m venv python
python/bin/pip install --quiet --no-compile --disable-pip-version-check asyncssh==2.24.1 >&2
cat >server.py <<'END'
import asyncio
import asyncssh


class Server(asyncssh.SSHServer):
    def connection_made(self, connection):
        self.connection = connection

    def begin_auth(self, username):
        if username == "away":
            self.connection.disconnect(asyncssh.DISC_BY_APPLICATION, "there is no room")
        return False


async def end(process):
    process.stdout.write("text\n")
    if process.command == "late":
        process.stdout.write_eof()
        await asyncio.sleep(1)
    if process.command == "none":
        process.close()
    else:
        process.exit(3)


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    # Dropbear guesses this key exchange, and AsyncSSH is at odds with a guess that is wrong.
    options = {"server_host_keys": [key], "process_factory": end, "kex_algs": ["curve25519-sha256"]}
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, **options)
    print(server.get_port(), key.get_fingerprint(), flush=True)
    await asyncio.sleep(240)


asyncio.run(main())
END
exec 3< <(exec python/bin/python server.py 2>server.log)
server=$!
trap 'kill "$server"; rm -rf "$work"' EXIT
read -r port fingerprint <&3

export HOME=$work
plain=(-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile="$work/hosts")
status() {
    local status=0
    timeout 60 "$@" </dev/null >/dev/null 2>&1 || status=$?
    echo "$status"
}
seen=
for what in user@exits user@late user@none away@; do
    user=${what%@*} command=${what#*@}
    seen+="${command:-away}: ssh $(status usr/bin/ssh "${plain[@]}" -p "$port" "$user@127.0.0.1" "${command:-exits}")"
    seen+=" plink $(status usr/bin/plink -batch -no-antispoof -hostkey "$fingerprint" -P "$port" "$user@127.0.0.1" "${command:-exits}")"
    seen+=" dbclient $(status usr/bin/dbclient -y -y -p "$port" "$user@127.0.0.1" "${command:-exits}"); "
done
echo "versions: $(echo *.deb), AsyncSSH 2.24.1"
echo "expected: exits: ssh 3 plink 3 dbclient 3; late: ssh 3 plink 3 dbclient 3; none, away: another status than 0, with each"
echo "seen:     $seen"
[ "$seen" = "exits: ssh 3 plink 3 dbclient 3; late: ssh 3 plink 0 dbclient 0; none: ssh 255 plink 0 dbclient 0; away: ssh 255 plink 1 dbclient 0; " ]
