#!/bin/bash
# A command that is killed by a signal has exit-signal for its end (RFC 4254, 6.10), and no exit-status. To Dropbear's client,
# libssh2 and parallel-ssh that is a status of 0, as if it had done all it was to do. PuTTY's plink ends with 128 whatever
# the signal, and OpenSSH's ssh with 255, as where there is no connection.
#
# berth: its agent sends exit-signal where sshd does (src/agent/session.rs), so a killed command is a success to these
# clients. A session whose container is gone ends with status 255 for that reason (src/ssh/channels.rs, abandon).
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
python/bin/pip install --quiet --no-compile --disable-pip-version-check parallel-ssh==2.16.0.post1 ssh2-python==1.2.0.post1 \
    asyncssh==2.24.1 >&2
cat >server.py <<'END'
import asyncio
import asyncssh


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False


def end(process):
    if process.command == "exits":
        process.exit(3)
    else:
        process.exit_with_signal(process.command)


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    # Dropbear guesses this key exchange, and AsyncSSH is at odds with a guess that is wrong.
    options = {"server_host_keys": [key], "process_factory": end, "kex_algs": ["curve25519-sha256"]}
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, **options)
    print(server.get_port(), key.get_fingerprint(), flush=True)
    await asyncio.sleep(240)


asyncio.run(main())
END
cat >client.py <<'END'
import sys
from pssh.clients import SSHClient

client = SSHClient("127.0.0.1", user="user", password="none", port=int(sys.argv[1]), num_retries=1, timeout=60, allow_agent=False)
output = client.run_command(sys.argv[2])
client.wait_finished(output)
print(output.exit_code)
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
for command in exits TERM KILL; do
    seen+="$command: ssh $(status usr/bin/ssh "${plain[@]}" -p "$port" user@127.0.0.1 "$command")"
    seen+=" dbclient $(status usr/bin/dbclient -y -y -p "$port" user@127.0.0.1 "$command")"
    seen+=" plink $(status usr/bin/plink -batch -no-antispoof -hostkey "$fingerprint" -P "$port" user@127.0.0.1 "$command")"
    seen+=" parallel-ssh $(timeout 60 python/bin/python client.py "$port" "$command"); "
done
echo "versions: $(echo *.deb), parallel-ssh 2.16.0.post1, libssh2 1.11.1"
echo "expected: exits: 3 with each; TERM: 143, and KILL: 137, or another status than 0, with each"
echo "seen:     $seen"
[ "$seen" = "exits: ssh 3 dbclient 3 plink 3 parallel-ssh 3; TERM: ssh 255 dbclient 0 plink 128 parallel-ssh 0; KILL: ssh 255 dbclient 0 plink 128 parallel-ssh 0; " ]
