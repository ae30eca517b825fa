#!/bin/bash
# A command whose connection breaks is no error to AsyncSSH's run(check=True), which is there to raise one where a command
# fails, nor to node-ssh's execCommand: both return with what output there was. There is no exit status then, and they look
# for one that is not 0. The one gives None, the other a code and a signal of null.
#
# berth: of a session whose container is gone its client hears status 255 (src/ssh/channels.rs, abandon), which is an error
# to both. When berth itself ends, it says DISCONNECT alone (src/ssh/connection.rs), and such a client goes on.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
python3 -m venv python
python/bin/pip install --quiet --no-compile --disable-pip-version-check asyncssh==2.24.1 >&2
npm install --silent --no-audit --no-fund --ignore-scripts ssh2@1.17.0 node-ssh@13.2.1 >&2
cat >program.py <<'END'
import asyncio
import asyncssh


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False


async def serve(process):
    process.stdout.write("half of it\n")
    await process.stdout.drain()
    if process.command == "fails":
        process.exit(1)
    else:
        process.channel.get_connection().abort()


async def asyncssh_says(port, command):
    try:
        async with asyncssh.connect("127.0.0.1", port, username="user", known_hosts=None, client_keys=None, config=[]) as client:
            result = await client.run(command, check=True)
            return f"returns {result.exit_status}"
    except asyncssh.Error as error:
        return type(error).__name__


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=serve)
    port = server.get_port()
    for command in ("fails", "breaks"):
        node = await asyncio.create_subprocess_exec("node", "program.js", str(port), command, stdout=asyncio.subprocess.PIPE)
        node_says, _ = await node.communicate()
        print(f"{command}: AsyncSSH {await asyncssh_says(port, command)}, node-ssh {node_says.decode().strip()}", end="; ")


asyncio.run(asyncio.wait_for(main(), 120))
END
cat >program.js <<'END'
const { NodeSSH } = require('node-ssh');
(async () => {
  const client = new NodeSSH();
  await client.connect({ host: '127.0.0.1', port: Number(process.argv[2]), username: 'user', readyTimeout: 60000 });
  const says = await client.execCommand(process.argv[3]).then(({ code, signal }) => `resolves ${code} ${signal}`, () => 'rejects');
  console.log(says);
  process.exit();
})();
END
seen=$(python/bin/python program.py)
echo "versions: AsyncSSH 2.24.1, node-ssh 13.2.1, ssh2 1.17.0, node $(node --version)"
echo "expected: fails: AsyncSSH ProcessError, node-ssh resolves 1 null; breaks: AsyncSSH ConnectionLost, node-ssh rejects;"
echo "seen:     $seen"
[ "$seen" = "fails: AsyncSSH ProcessError, node-ssh resolves 1 null; breaks: AsyncSSH returns None, node-ssh resolves null null; " ]
