"""AsyncSSH as a client of the tests: see tests/program/clients.rs for what it is asked to do."""

import asyncio
import os
import sys

import asyncssh

HOST = "127.0.0.1"


async def connect(method):
    key = asyncssh.import_public_key(os.environ["HOST_KEY"])
    preferred = {"key": "publickey"}.get(method, method)
    return await asyncssh.connect(
        HOST,
        int(os.environ["PORT"]),
        username="alice",
        known_hosts=([key], [], []),
        config=None,
        agent_path=None,
        preferred_auth=preferred,
        client_keys=[os.environ["KEY"]] if method == "key" else None,
        password=None if method == "key" else os.environ["PASSWORD"],
    )


async def execute(connection, command, **terminal):
    result = await connection.run(command, input=sys.stdin.buffer.read(), encoding=None, **terminal)
    sys.stdout.buffer.write(result.stdout)
    sys.stderr.buffer.write(result.stderr)
    sys.stderr.flush()
    if result.exit_signal:
        print("signal", result.exit_signal[0], file=sys.stderr)
        return 255
    return result.exit_status


async def through(connection, host, port):
    reader, writer = await connection.open_connection(host, int(port))
    writer.write(sys.stdin.buffer.read())
    writer.write_eof()
    sys.stdout.buffer.write(await reader.read())


async def listen(connection):
    async def answer(reader, writer):
        writer.write(b"you said " + await reader.read())
        writer.write_eof()

    listener = await connection.start_server(lambda host, port: answer, "127.0.0.1", 0, encoding=None)
    result = await connection.run(f"echo hello | nc 127.0.0.1 {listener.get_port()}")
    listener.close()
    await listener.wait_closed()
    sys.stdout.write(result.stdout)
    return result.exit_status


async def files(connection, near, far, back):
    async with connection.start_sftp_client() as sftp:
        await sftp.put(near, far)
        assert await sftp.getsize(far) == os.path.getsize(near)
        await sftp.mkdir(far + ".d")
        await sftp.posix_rename(far, far + ".d/moved")
        await sftp.symlink("moved", far + ".d/link")
        names = [name for name in await sftp.listdir(far + ".d") if not name.startswith(".")]
        assert sorted(names) == ["link", "moved"], names
        assert await sftp.readlink(far + ".d/link") == "moved"
        await sftp.chmod(far + ".d/moved", 0o640)
        async with sftp.open(far + ".d/link", "r+b") as file:
            await file.write(b"berth", 3)
            assert (await file.read(8, 0))[3:] == b"berth"
            await file.fsync()
        assert (await sftp.statvfs(far + ".d")).blocks > 0
        await sftp.get(far + ".d/moved", back)
        try:
            await sftp.remove(far + ".d/nothing")
            raise AssertionError("what is not there was removed")
        except asyncssh.SFTPNoSuchFile:
            pass


async def main(method, action, *arguments):
    async with await connect(method) as connection:
        match action:
            case "exec":
                return await execute(connection, *arguments)
            case "terminal":
                return await execute(connection, *arguments, term_type="vt220", term_size=(100, 40))
            case "connect":
                return await through(connection, *arguments)
            case "listen":
                return await listen(connection)
            case "files":
                return await files(connection, *arguments)
            case _:
                sys.exit(f"no action {action}")


try:
    sys.exit(asyncio.run(main(*sys.argv[1:])))
except asyncssh.PermissionDenied as error:
    sys.exit(f"authentication failed: {error}")
