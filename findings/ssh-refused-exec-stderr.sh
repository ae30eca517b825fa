#!/bin/bash
# OpenSSH's client drops what came on standard error right before a server's refusal of exec, where it has read both at once:
# it ends at the refusal, with a line of its own, and what it had not yet written is gone. plink shows both. So a server that
# says on the channel why it refuses a command cannot count on its reason being read.
#
# berth: where there will be no container, it accepts the command, says why on standard error, and ends it with exit status
# 255 (src/ssh/early.rs).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
chmod 755 "$work"
apt-get download -q openssh-client=1:9.2p1-2+deb12u10 putty-tools=0.78-2+deb12u2 >&2
for package in *.deb; do
    dpkg-deb --extract "$package" .
done
python3 -m venv python
python/bin/pip install --quiet --no-compile --disable-pip-version-check asyncssh==2.24.1 >&2
cat >server.py <<'END'
import asyncio
import socket
import asyncssh


class Session(asyncssh.SSHServerSession):
    def connection_made(self, channel):
        self.channel = channel

    def exec_requested(self, command):
        # What comes now comes at once: the client drops what it has read together with the refusal.
        connection = self.channel.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        asyncio.get_running_loop().call_later(0.1, connection.setsockopt, socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        self.channel.write_stderr("the reason\n")
        return command != "refused"

    def session_started(self):
        self.channel.exit(255)


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False

    def session_requested(self):
        return Session()


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key])
    print(server.get_port(), key.get_fingerprint(), flush=True)
    await asyncio.sleep(240)


asyncio.run(main())
END
exec 3< <(exec python/bin/python server.py 2>server.log)
server=$!
trap 'kill "$server"; rm -rf "$work"' EXIT
read -r port fingerprint <&3

export HOME=$work
ssh=(usr/bin/ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile="$work/hosts" -p "$port")
plink=(usr/bin/plink -batch -no-antispoof -hostkey "$fingerprint" -P "$port")
shows() {
    timeout 60 "$@" </dev/null >said 2>&1 || true
    if grep -q "the reason" said; then echo shows it; else echo drops it; fi
}
seen=
for command in accepted refused; do
    seen+="$command: ssh $(shows "${ssh[@]}" user@127.0.0.1 "$command"),"
    seen+=" plink $(shows "${plink[@]}" user@127.0.0.1 "$command"); "
done
echo "versions: $(echo *.deb), AsyncSSH 2.24.1"
echo "expected: accepted: ssh shows it, plink shows it; refused: ssh shows it, plink shows it;"
echo "seen:     $seen"
[ "$seen" = "accepted: ssh shows it, plink shows it; refused: ssh drops it, plink shows it; " ]
