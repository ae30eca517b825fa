#!/bin/bash
# libssh2 asks for a file ahead, and gives up when the answer to a READ has less than was asked for: the next answer is at an
# "unexpected offset" then. So it works with small buffers, and fails with those of 30 kB and more, which its users have
# (curl's sftp:// ends with status 79). An answer may be short (draft-ietf-secsh-filexfer-02, 6.4); sshd's are for files of
# /proc and of some file systems, which are read in pieces whatever is asked for. OpenSSH's sftp asks for the rest.
#
# berth: its SFTP server reads on until it has what was asked for, or the end of the file (src/agent/sftp/session.rs).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
python3 -m venv python
python/bin/pip install --quiet --no-compile --disable-pip-version-check ssh2-python==1.2.0.post1 asyncssh==2.24.1 >&2
cat >server.py <<'END'
import asyncio
import asyncssh


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False


class Pieces(asyncssh.SFTPServer):
    def read(self, file_obj, offset, size):
        return super().read(file_obj, offset, min(size, 4000))


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], sftp_factory=Pieces)
    print(server.get_port(), flush=True)
    await asyncio.sleep(240)


asyncio.run(main())
END
cat >client.py <<'END'
import socket, sys
from ssh2.session import Session
from ssh2.sftp import LIBSSH2_FXF_READ

port, file = sys.argv[1:]
for size in (4096, 30000):
    connection = socket.create_connection(("127.0.0.1", int(port)))
    session = Session()
    session.handshake(connection)
    session.set_timeout(60_000)
    session.userauth_list("user")  # which lets in: nothing is asked for
    handle = session.sftp_init().open(file, LIBSSH2_FXF_READ, 0)
    count, total = 1, 0
    while count > 0:
        count, _ = handle.read(size)
        total += max(count, 0)
    print(f"buffers of {size}: {total} bytes, then {count}", end="; ")
END
head -c 100000 /dev/zero >file
exec 3< <(exec python/bin/python server.py 2>server.log)
server=$!
trap 'kill "$server"; rm -rf "$work"' EXIT
read -r port <&3
seen=$(timeout 60 python/bin/python client.py "$port" "$work/file")
echo "versions: libssh2 1.11.1 (ssh2-python 1.2.0.post1), AsyncSSH 2.24.1"
echo "expected: buffers of 4096: 100000 bytes, then 0; buffers of 30000: 100000 bytes, then 0;"
echo "seen:     $seen"
[[ $seen =~ ^"buffers of 4096: 100000 bytes, then 0; buffers of 30000: "(0|4000)" bytes, then -31; "$ ]]
