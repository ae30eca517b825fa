#!/bin/bash
# The readFile of npm's ssh2 asks for a whole file at once, however large, and its own connection ends with an error where a
# server gives it what was asked for: an SFTP packet may have 262144 bytes there. Servers that give less are read on from.
# So a file of 300 kB cannot be read from an AsyncSSH server, and one of 200 kB can.
#
# berth: no answer to READ has more than 255 KiB, as sshd's (MAX_DATA, src/agent/sftp/packet.rs), whatever is asked for.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
python3 -m venv python
python/bin/pip install --quiet --no-compile --disable-pip-version-check asyncssh==2.24.1 >&2
npm install --silent --no-audit --no-fund --ignore-scripts ssh2@1.17.0 >&2
cat >server.py <<'END'
import asyncio
import asyncssh


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], sftp_factory=True)
    print(server.get_port(), flush=True)
    await asyncio.sleep(240)


asyncio.run(main())
END
cat >client.js <<'END'
const { Client } = require('ssh2');
const [, , port, path] = process.argv;
const say = (text) => { console.log(text); process.exit(); };
const client = new Client();
client.on('error', (error) => say(error.message));
client.on('ready', () => client.sftp((error, sftp) => sftp.readFile(path, (error, data) => {
  say(error ? error.message : `${data.length} bytes`);
})));
client.connect({ host: '127.0.0.1', port: Number(port), username: 'user', readyTimeout: 60000 });
END
exec 3< <(exec python/bin/python server.py 2>server.log)
server=$!
trap 'kill "$server"; rm -rf "$work"' EXIT
read -r port <&3
head -c 200000 /dev/zero >small
head -c 300000 /dev/zero >large

seen=
for file in small large; do
    seen+="$file: $(timeout 60 node client.js "$port" "$work/$file"); "
done
echo "versions: ssh2 1.17.0, node $(node --version), AsyncSSH 2.24.1"
echo "expected: small: 200000 bytes; large: 300000 bytes;"
echo "seen:     $seen"
[ "$seen" = "small: 200000 bytes; large: Packet length 300009 exceeds max length of 262144; " ]
