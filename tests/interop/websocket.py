#!/usr/bin/env python3
"""WebSocket cases after the Autobahn test suite, with the library `websockets` at both ends.

`websocket.py serve` prints the port of an echo server; `websocket.py run PORT` prints how each case came out.
"""

import itertools
import struct
import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.sync.client import connect
from websockets.sync.server import serve as listen

PATIENCE = 10
SIZES = [0, 1, 125, 126, 127, 128, 1000, 16384, 65535, 65536, 65537, 1 << 20]


def echo(connection):
    try:
        for message in connection:
            connection.send(message)
    except ConnectionClosed:
        pass


def serve():
    with listen(echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.socket.getsockname()[1], flush=True)
        sys.stdin.read()  # Until whoever started it is gone.


def expect(have, want):
    if have != want:
        show = lambda value: f"{value!r:.60}"
        raise AssertionError(f"{show(have)}, not {show(want)}")


def frame(opcode, payload=b"", fin=True, reserved=0):
    """A frame as a client sends it, with a mask of zeros, which leaves the payload readable."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    if len(payload) < 126:
        head = struct.pack("!BB", first, 0x80 | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, len(payload))
    return head + bytes(4) + payload


def answer(ws, message):
    ws.send(message)
    expect(ws.recv(PATIENCE), message)


def close_code(ws):
    try:
        while True:
            ws.recv(PATIENCE)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


# --- Autobahn 1 to 7, 9, 12 and 13, each with a connection of its own

def text(ws):
    for size in SIZES:
        answer(ws, "*" * size)
    answer(ws, "Κόσμε \U0001f600")


def binary(ws):
    for size in SIZES:
        answer(ws, b"\xfe" * size)


def text_in_pieces(ws):
    message = "*" * 65536
    for piece in (64, 1000, 32768):
        ws.send(message[at:at + piece] for at in range(0, len(message), piece))
        expect(ws.recv(PATIENCE), message)


def bytes_one_by_one(ws):
    for byte in frame(Opcode.TEXT, b"slowly"):
        ws.socket.sendall(bytes([byte]))
    expect(ws.recv(PATIENCE), "slowly")


def frames_in_one_write(ws):
    ws.socket.sendall(b"".join(frame(Opcode.TEXT, str(n).encode()) for n in range(200)))
    expect([ws.recv(PATIENCE) for _ in range(200)], [str(n) for n in range(200)])


def pings(ws):
    for payload in (b"", b"Hello, world!", bytes(range(125))):
        assert ws.ping(payload or None).wait(PATIENCE), "no pong"
    for waiting in [ws.ping() for _ in range(10)]:
        assert waiting.wait(PATIENCE), "no pong"


def unsolicited_pong(ws):
    ws.pong(b"nobody asked")
    answer(ws, "still here")


def a_ping_between_fragments(ws):
    ws.socket.sendall(frame(Opcode.TEXT, b"first ", fin=False))
    assert ws.ping(b"between").wait(PATIENCE), "no pong"
    ws.socket.sendall(frame(Opcode.CONT, b"second"))
    expect(ws.recv(PATIENCE), "first second")


def empty_fragments(ws):
    ws.socket.sendall(frame(Opcode.TEXT, fin=False) + frame(Opcode.CONT, fin=False) + frame(Opcode.CONT))
    expect(ws.recv(PATIENCE), "")


def refused(code, *frames):
    def case(ws):
        ws.socket.sendall(b"".join(frames))
        expect(close_code(ws), code)
    return case


def closes_with(code, reason=""):
    def case(ws):
        answer(ws, "before")
        ws.close(code, reason)
        expect((ws.close_code, ws.close_reason), (code, reason))
    return case


def many_messages(ws):
    def send():
        for n in range(2000):
            ws.send(f"{n:>256}")
    sending = threading.Thread(target=send)
    sending.start()
    expect([int(ws.recv(PATIENCE)) for _ in range(2000)], list(range(2000)))
    sending.join()


def four_megabytes(ws):
    for kind in ("*", b"*"):
        answer(ws, kind * (4 << 20))


CASES = {
    "1.1 text": text,
    "1.2 binary": binary,
    "1.1 text in pieces": text_in_pieces,
    "1.1 bytes one by one": bytes_one_by_one,
    "2.1 pings": pings,
    "2.5 a ping that is too long": refused(1002, frame(Opcode.PING, bytes(126))),
    "2.7 a pong that nobody asked for": unsolicited_pong,
    "3.1 a reserved bit": refused(1002, frame(Opcode.TEXT, b"x", reserved=4)),
    "4.1 a reserved data opcode": refused(1002, frame(3, b"x")),
    "4.2 a reserved control opcode": refused(1002, frame(11, b"x")),
    "5.1 a ping in fragments": refused(1002, frame(Opcode.PING, b"x", fin=False), frame(Opcode.CONT, b"y")),
    "5.6 a ping between fragments": a_ping_between_fragments,
    "5.9 a continuation of nothing": refused(1002, frame(Opcode.CONT, b"x")),
    "5.18 a beginning in the middle": refused(1002, frame(Opcode.TEXT, b"x", fin=False), frame(Opcode.TEXT, b"y")),
    "6.1 empty fragments": empty_fragments,
    "6.3 text that is no UTF-8": refused(1007, frame(Opcode.TEXT, b"\xce\xba\xed\xa0\x80")),
    "7.3 an empty close": refused(1005, frame(Opcode.CLOSE)),
    "7.3 half a close code": refused(1002, frame(Opcode.CLOSE, b"\x03")),
    "7.9 a close code that means nothing": refused(1002, frame(Opcode.CLOSE, struct.pack("!H", 999))),
    "9.3 four megabytes": four_megabytes,
    "9.7 many messages": many_messages,
    "9.8 frames in one write": frames_in_one_write,
}
for code in itertools.chain((1000, 1001, 1002, 1003), range(1007, 1012), (3000, 3999, 4000, 4999)):
    CASES[f"7.7 close code {code}"] = closes_with(code, "because" if code % 2 else "")


def attempt(port, case, compression):
    uri = f"ws://127.0.0.1:{port}/chat?room=1"
    with connect(uri, max_size=None, compression=compression, ping_interval=None, proxy=None) as ws:
        if compression and not ws.protocol.extensions:
            raise AssertionError("the server's extension did not come through")
        case(ws)


def run(port):
    cases = [(name, case, None) for name, case in CASES.items()]
    cases += [(f"12.{name}", CASES[name], "deflate") for name in ("1.1 text", "1.2 binary", "9.7 many messages")]
    failed = 0
    for name, case, compression in cases:
        try:
            attempt(port, case, compression)
            print(f"{name}: ok", flush=True)
        except Exception as error:  # Whatever it is, the case has failed.
            failed += 1
            print(f"{name}: {type(error).__name__} {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else run(int(sys.argv[2]))
