#!/bin/bash
# parallel-ssh copies a remote file of which nothing, or the first part alone, can be read, and reports no error: the server
# has answered READ with a failure. ssh2-python's files end their loops at whatever is not data, an error like the file's
# end, and that is how parallel-ssh reads them. What was read ahead, and not yet handed out, is lost as well.
#
# berth: its SFTP server answers so where a container's volume fails, or a file can be opened and not read
# (src/agent/sftp/reply.rs). There is nothing more that it could say; the sizes are what its users can compare.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$work"
python3 -m venv python
python/bin/pip install --quiet --no-compile --disable-pip-version-check parallel-ssh==2.16.0.post1 ssh2-python==1.2.0.post1 \
    asyncssh==2.24.1 >&2
cat >server.py <<'END'
import asyncio, os
import asyncssh


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False


class Files(asyncssh.SFTPServer):
    def scandir(self, path):
        if not os.path.isdir(path):
            raise asyncssh.SFTPFailure("not a directory")
        return super().scandir(path)

    def read(self, file_obj, offset, size):
        user = self.channel.get_extra_info("username")
        if user == "reads-fail" and offset >= 600_000:
            raise asyncssh.SFTPFailure("Input/output error")
        return super().read(file_obj, offset, size)


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], sftp_factory=Files)
    print(server.get_port(), flush=True)
    await asyncio.sleep(240)


asyncio.run(main())
END
cat >client.py <<'END'
import os, sys
from pssh.clients import SSHClient

port, file = sys.argv[1:]
for user in ("reads-all", "reads-fail"):
    client = SSHClient("127.0.0.1", user=user, password="none", port=int(port), num_retries=1, timeout=60, allow_agent=False)
    client.copy_remote_file(file, user)
    print(f"{user}: {'whole' if os.path.getsize(user) == os.path.getsize(file) else 'cut off'}", end="; ")
END
head -c 1000000 /dev/zero >file
exec 3< <(exec python/bin/python server.py 2>server.log)
server=$!
trap 'kill "$server"; rm -rf "$work"' EXIT
read -r port <&3
seen=$(timeout 60 python/bin/python client.py "$port" "$work/file")
echo "versions: parallel-ssh 2.16.0.post1, ssh2-python 1.2.0.post1, AsyncSSH 2.24.1"
echo "expected: reads-all: whole; reads-fail: an exception"
echo "seen:     $seen"
[ "$seen" = "reads-all: whole; reads-fail: cut off; " ]
