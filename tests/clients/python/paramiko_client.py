"""Paramiko as a client of the tests: see tests/program/clients.rs for what it is asked to do."""

import os
import sys
import threading

import paramiko

HOST = "127.0.0.1"
USER = "alice"


def connect(method):
    transport = paramiko.Transport((HOST, int(os.environ["PORT"])))
    kind, blob = os.environ["HOST_KEY"].split()[:2]
    transport.start_client(timeout=60)
    server_key = transport.get_remote_server_key()
    assert (server_key.get_name(), server_key.get_base64()) == (kind, blob), "another host key"
    if method == "key":
        transport.auth_publickey(USER, paramiko.Ed25519Key.from_private_key_file(os.environ["KEY"]))
    elif method == "password":
        transport.auth_password(USER, os.environ["PASSWORD"], fallback=False)
    else:
        transport.auth_interactive(USER, lambda title, text, prompts: [os.environ["PASSWORD"] for _ in prompts])
    return transport


def copy(read, write):
    while data := read(32768):
        write(data)


def relay(channel):
    """Connects our standard input and outputs with the channel's."""

    def send():
        # Not Python's own file: at the end it would wait for a thread that reads from that.
        copy(lambda size: os.read(0, size), channel.sendall)
        channel.shutdown_write()

    # Nobody waits for a client that goes on sending.
    threading.Thread(target=send, daemon=True).start()
    readers = [
        threading.Thread(target=copy, args=(channel.recv, sys.stdout.buffer.write)),
        threading.Thread(target=copy, args=(channel.recv_stderr, sys.stderr.buffer.write)),
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    sys.stdout.flush()


def execute(transport, command, terminal=False):
    channel = transport.open_session()
    if terminal:
        channel.get_pty("vt220", 100, 40)
    channel.exec_command(command)
    relay(channel)
    # Signals are nothing that paramiko knows: it has -1 for them.
    return channel.recv_exit_status()


def files(transport, near, far, back):
    sftp = paramiko.SFTPClient.from_transport(transport)
    sftp.put(near, far)
    assert sftp.stat(far).st_size == os.path.getsize(near)
    sftp.mkdir(far + ".d", 0o700)
    sftp.posix_rename(far, far + ".d/moved")
    sftp.symlink("moved", far + ".d/link")
    assert sorted(sftp.listdir(far + ".d")) == ["link", "moved"]
    assert sftp.readlink(far + ".d/link") == "moved"
    sftp.chmod(far + ".d/moved", 0o640)
    with sftp.open(far + ".d/link", "r+") as file:
        file.seek(3)
        file.write(b"berth")
        file.seek(0)
        assert file.read(8)[3:] == b"berth"
    sftp.get(far + ".d/moved", back)
    try:
        sftp.remove(far + ".d/nothing")
        raise AssertionError("what is not there was removed")
    except FileNotFoundError:
        pass


def listen(transport):
    port = transport.request_port_forward("127.0.0.1", 0)

    def answer():
        channel = transport.accept(60)
        with channel.makefile("rb") as question:
            channel.sendall(b"you said " + question.read())
        channel.close()

    thread = threading.Thread(target=answer)
    thread.start()
    status = execute(transport, f"echo hello | nc 127.0.0.1 {port}")
    thread.join()
    transport.cancel_port_forward("127.0.0.1", port)
    return status


def main(method, action, *arguments):
    transport = connect(method)
    try:
        match action:
            case "exec":
                return execute(transport, *arguments)
            case "terminal":
                return execute(transport, *arguments, terminal=True)
            case "connect":
                host, port = arguments
                relay(transport.open_channel("direct-tcpip", (host, int(port)), (HOST, 0)))
            case "listen":
                return listen(transport)
            case "files":
                files(transport, *arguments)
            case _:
                sys.exit(f"no action {action}")
    finally:
        transport.close()


try:
    sys.exit(main(*sys.argv[1:]))
except paramiko.AuthenticationException as error:
    sys.exit(f"authentication failed: {error}")
