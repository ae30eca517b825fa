"""A websocket server that puts its client to the test, with the cases of the Autobahn test suite.

The client asks for /N, the case with this number, and is to send each message back, to answer pings, and to close as the
protocol wants it. What it sends is read by the `websockets` package, which knows nothing of the client. The first line
printed is the port and the number of cases; after that, each case has a line: "ok NAME" or "FAILED NAME: WHY".

Under /client it is the client that begins: pings and the close frame are answered.
"""

import asyncio
import struct

from websockets.frames import Frame, Opcode
from websockets.server import ServerConnection

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
DEADLINE = 30


def frame(opcode, payload=b"", fin=True, reserved=0, masked=False):
    """A server's frame, right or wrong."""
    head = bytes([fin << 7 | reserved << 4 | opcode])
    length, bit = len(payload), masked << 7
    if length < 126:
        head += bytes([bit | length])
    elif length < 65536:
        head += struct.pack("!BH", bit | 126, length)
    else:
        head += struct.pack("!BQ", bit | 127, length)
    return head + (b"\0\0\0\0" if masked else b"") + payload


def close(code=None, reason=b""):
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def message(opcode, payload, size):
    """A message in fragments of this size."""
    pieces = [payload[i : i + size] for i in range(0, len(payload), size)]
    last = len(pieces) - 1
    return b"".join(frame(CONTINUATION if i else opcode, piece, fin=i == last) for i, piece in enumerate(pieces))


class Case:
    """What is sent, what has to come back, and the code of the client's close frame. Where nothing is wrong with what is
    sent, the server closes with 1000. `chop` is how many bytes are sent at a time."""

    def __init__(self, name, sent, answers, code=1000, chop=None, last=None):
        self.name, self.sent, self.answers, self.code, self.chop = name, sent, answers, code, chop
        if last is not None:
            self.sent += last
        elif code == 1000:
            self.sent += close(1000)


def cases():
    hello = b"Hello-\xc2\xb5@\xc3\x9f\xc3\xb6\xc3\xa4"
    for opcode in TEXT, BINARY:
        for length in 0, 1, 125, 126, 127, 128, 65535, 65536:
            payload = b"*" * length
            yield Case(f"1 framing {opcode} {length}", frame(opcode, payload), [(opcode, payload)])
            yield Case(f"1 framing {opcode} {length} in pieces", frame(opcode, payload), [(opcode, payload)], chop=997)
    for length in 0, 5, 125:
        yield Case(f"2 ping {length}", frame(PING, b"p" * length), [(PONG, b"p" * length)])
    yield Case("2 ping 126", frame(PING, b"p" * 126), [], 1002)
    yield Case("2 ping byte by byte", frame(PING, b"\0\xff" * 60), [(PONG, b"\0\xff" * 60)], chop=1)
    yield Case("2 unsolicited pong", frame(PONG, b"x"), [])
    yield Case("2 pong and ping", frame(PONG) + frame(PING, b"y"), [(PONG, b"y")])
    for bits in range(1, 8):
        for opcode in TEXT, BINARY, PING, PONG, CLOSE:
            sent = frame(TEXT, hello) + frame(opcode, b"", reserved=bits) + frame(TEXT, b"late")
            yield Case(f"3 reserved {bits} {opcode}", sent, [(TEXT, hello)], 1002)
    for opcode in 3, 4, 5, 6, 7, 11, 12, 13, 14, 15:
        for payload in b"", b"reserved":
            sent = frame(TEXT, hello) + frame(opcode, payload) + frame(PING)
            yield Case(f"4 opcode {opcode} {len(payload)}", sent, [(TEXT, hello)], 1002)
    yield Case("4 masked", frame(TEXT, hello, masked=True), [], 1002)
    for opcode in PING, PONG, CLOSE:
        yield Case(f"5 fragmented control {opcode}", frame(opcode, fin=False) + frame(CONTINUATION), [], 1002)
    for chop in None, 1, 7:
        whole = b"fragment1" + b"fragment2"
        parts = frame(TEXT, b"fragment1", fin=False), frame(CONTINUATION, b"fragment2")
        yield Case(f"5 fragments {chop}", b"".join(parts), [(TEXT, whole)], chop=chop)
        pinged = parts[0] + frame(PING, b"ping") + parts[1]
        yield Case(f"5 ping between fragments {chop}", pinged, [(PONG, b"ping"), (TEXT, whole)], chop=chop)
        alone = frame(CONTINUATION, b"alone") + frame(TEXT, hello)
        yield Case(f"5 continuation without begin {chop}", alone, [], 1002, chop)
        alone = frame(CONTINUATION, b"alone", fin=False) + frame(TEXT, hello)
        yield Case(f"5 unfinished continuation without begin {chop}", alone, [], 1002, chop)
        yield Case(f"5 new message within another {chop}", parts[0] + frame(TEXT, b"new"), [], 1002, chop)
        empty = frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION)
        yield Case(f"5 empty fragments {chop}", empty, [(TEXT, b"")], chop=chop)
    five = [frame(TEXT, b"1", fin=False)] + [frame(CONTINUATION, b"2", fin=False)] * 3 + [frame(CONTINUATION, b"3")]
    sent = b"".join(part + frame(PING, bytes([i])) for i, part in enumerate(five))
    pongs = [(PONG, bytes([i])) for i in range(5)]
    yield Case("5 pings between five fragments", sent, pongs[:4] + [(TEXT, b"12223"), pongs[4]], chop=1)

    texts = [hello, "κόσμε".encode(), "🦀 \u0000 \uffff \U0010ffff \ud7ff \ue000".encode(), b""]
    for number, text in enumerate(texts):
        yield Case(f"6 text {number}", frame(TEXT, text), [(TEXT, text)])
        yield Case(f"6 text {number} byte by byte", frame(TEXT, text), [(TEXT, text)], chop=1)
        if text:
            yield Case(f"6 text {number} in bytes", message(TEXT, text, 1), [(TEXT, text)])
    bad = [b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf", b"\x80"]
    bad += [b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xff", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"abc\xe2\x82"]
    for number, text in enumerate(bad):
        yield Case(f"6 no text {number}", frame(TEXT, text), [], 1007)
        yield Case(f"6 no text {number} in bytes", message(TEXT, text, 1), [], 1007)
        yield Case(f"6 no text but binary {number}", frame(BINARY, text), [(BINARY, text)])
    yield Case("6 no text, told before its end", frame(TEXT, b"a\xff", fin=False), [], 1007)

    yield Case("7 messages and close", frame(TEXT, b"a") + frame(TEXT, b"b"), [(TEXT, b"a"), (TEXT, b"b")])
    yield Case("7 nothing is answered after close", b"", [], last=close(1000) + frame(TEXT, b"late") + frame(PING))
    yield Case("7 close within a message", frame(TEXT, b"fragment", fin=False), [])
    yield Case("7 close without code", b"", [], None, last=close())
    yield Case("7 close with half a code", b"", [], 1002, last=frame(CLOSE, b"\x03"))
    yield Case("7 close with reason", b"", [], last=close(1000, b"r" * 123))
    yield Case("7 close with too long a reason", b"", [], 1002, last=close(1000, b"r" * 124))
    yield Case("7 close with a reason that is no text", b"", [], 1007, last=close(1000, bad[0]))
    for code in 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999:
        yield Case(f"7 close {code}", b"", [], code, last=close(code))
    for code in 0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535:
        yield Case(f"7 no such code {code}", b"", [], 1002, last=close(code))

    for opcode in TEXT, BINARY:
        for size in 1 << 18, 1 << 22:
            payload = b"#" * size
            yield Case(f"9 large {opcode} {size}", frame(opcode, payload), [(opcode, payload)])
            for part in 1 << 10, 1 << 16:
                sent = message(opcode, payload, part)
                yield Case(f"9 large {opcode} {size} in {part}", sent, [(opcode, payload)], chop=65536)
    yield Case("9 many messages", frame(BINARY, b"m" * 100) * 1000, [(BINARY, b"m" * 100)] * 1000)
    # RFC 6455 lets a client answer the newest ping alone; on a connection that nothing else holds up, all are.
    yield Case("9 many pings", frame(PING, b"m") * 100, [(PONG, b"m")] * 100)


CASES = list(cases())


async def examine(case, client, reader, writer):
    """Plays a case; returns what the client did wrong."""

    async def send():
        size = case.chop or max(len(case.sent), 1)
        for i in range(0, len(case.sent), size):
            writer.write(case.sent[i : i + size])
            await writer.drain()
            if case.chop:
                # So that the pieces arrive as such.
                await asyncio.sleep(0)

    sending = asyncio.ensure_future(send())
    came, parts, code = [], [], "none"
    while code == "none":
        data = await reader.read(65536)
        if not data:
            break
        # It raises nothing, and gives the frames up to what is wrong.
        client.receive_data(data)
        if client.parser_exc is not None:
            return f"sent what is no websocket: {client.parser_exc!r}"
        for event in client.events_received():
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.CLOSE:
                code = struct.unpack("!H", event.data[:2])[0] if event.data else None
            else:
                came.append((int(event.opcode), bytes(event.data)))
    sending.cancel()
    if code != case.code:
        return f"closed with {code}, not {case.code}"
    if came != case.answers:
        show = lambda answers: [(opcode, payload[:20], len(payload)) for opcode, payload in answers[:10]]
        return f"answered {show(came)}, not {show(case.answers)}"
    return None


async def serve(reader, writer):
    client = ServerConnection(subprotocols=["test"], max_size=None)
    request = None
    while request is None:
        client.receive_data(await reader.read(65536))
        request = next(iter(client.events_received()), None)
    client.send_response(client.accept(request))
    writer.write(b"".join(client.data_to_send()))
    if request.path == "/client":
        while data := await reader.read(65536):
            client.receive_data(data)
            writer.write(b"".join(client.data_to_send()))
        return writer.close()
    case = CASES[int(request.path[1:])]
    try:
        wrong = await asyncio.wait_for(examine(case, client, reader, writer), DEADLINE)
    except (asyncio.TimeoutError, ConnectionError) as error:
        wrong = repr(error)
    print(f"FAILED {case.name}: {wrong}" if wrong else f"ok {case.name}", flush=True)
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], len(CASES), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
