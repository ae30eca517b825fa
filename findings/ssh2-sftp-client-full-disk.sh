#!/bin/bash
# The put of npm's ssh2-sftp-client resolves with "Uploaded data stream" where nothing could be written: the disk is full, and
# the server has answered every WRITE with a failure. ssh2's stream destroys itself before it hands the error on, and a
# destroyed stream of Node's emits none. fastPut, by the same client to the same file, rejects.
#
# berth: nothing that a server says reaches such a user. Its SFTP server answers as sshd's does; a container's disk fills up
# where it has a limit, a small volume, or a tmpfs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=1:9.2p1-2+deb12u10

cd "$work"
chmod 755 "$work"
apt-get download -q "openssh-sftp-server=$version" >&2
dpkg-deb --extract openssh-sftp-server_*.deb .
npm install --silent --no-audit --no-fund --ignore-scripts ssh2@1.17.0 ssh2-sftp-client@12.1.1 >&2
cat >program.js <<'END'
const { spawn } = require('child_process');
const fs = require('fs');
const { Server, utils } = require('ssh2');
const Client = require('ssh2-sftp-client');

const full = '/dev/full';
fs.writeFileSync('file', 'some text\n');

const key = utils.generateKeyPairSync('ed25519').private;
const server = new Server({ hostKeys: [key] }, (client) => {
  client.on('error', () => {});
  client.on('authentication', (context) => context.accept());
  client.on('session', (accept) => accept().on('subsystem', (accept) => {
    const channel = accept();
    const program = spawn(process.argv[2], ['-e'], { stdio: ['pipe', 'pipe', 'ignore'] });
    channel.pipe(program.stdin);
    program.stdout.pipe(channel);
  }));
});

async function upload(method) {
  const client = new Client();
  await client.connect({ host: '127.0.0.1', port: server.address().port, username: 'user', readyTimeout: 60000 });
  const result = await client[method]('file', full).then(() => 'resolves', () => 'rejects');
  await client.end();
  return `${method} ${result}`;
}

server.listen(0, '127.0.0.1', async () => {
  console.log(await upload('put'), 'and', await upload('fastPut'));
  process.exit();
});
END
seen=$(timeout 120 node program.js "$work/usr/lib/openssh/sftp-server")

echo "versions: ssh2-sftp-client 12.1.1, ssh2 1.17.0, node $(node --version), openssh-sftp-server $version"
echo "expected: on a full disk put rejects and fastPut rejects"
echo "seen:     on a full disk $seen"
[ "$seen" = "put resolves and fastPut rejects" ]
