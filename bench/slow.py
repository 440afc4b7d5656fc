#!/usr/bin/env python3
"""Memory that peers cost who do not read or hardly send: 200 clients each, bodies of 10 MB, beside Envoy, one worker each.

The figures are MiB of memory (PSS) beyond what the idle proxy has, after it has stopped growing. Needs a build
(`cargo build --profile dist -p malla`), nginx and Envoy (MALLA_ENVOY).
"""
import argparse
import contextlib
import pathlib
import socket
import struct
import tempfile
import threading
import time

import lab

CLIENTS, BODY = 200, 10 << 20
DEAF = 18086


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        (folder / "large").write_bytes(bytes(BODY))
        with lab.backend(folder):
            lab.compare("MiB for 200 of them", CASES, chosen.rounds, lambda name, case: grown(name, folder, *case))


def grown(name, folder, port, begin):
    """MiB that the clients of one case add."""
    def towards(text):
        return text.replace(f"port_value: {lab.BACKEND}", f"port_value: {port}")

    with contextlib.ExitStack() as stack:
        stack.enter_context(deaf())
        started = stack.enter_context(lab.proxies(name, [("gateway.yaml", lab.GATEWAY)], folder, towards))
        idle = lab.pss(started[0].pid)
        clients = [stack.enter_context(connect()) for _ in range(CLIENTS)]
        sending = [begin(client) for client in clients]
        last, since = 0, time.monotonic()
        # Until it has not grown by a hundredth for two seconds.
        while time.monotonic() - since < 2:
            for client, data in zip(clients, sending):
                with contextlib.suppress(BlockingIOError):
                    next(data, None)
            time.sleep(0.05)
            if (now := lab.pss(started[0].pid)) > last * 1.01:
                last, since = now, time.monotonic()
        return last - idle


def connect():
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", lab.GATEWAY))
    return client


def asks_http1(client):
    """Asks, and reads nothing."""
    client.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
    return iter(())


def asks_http2(client):
    """As above, with windows that never close: what holds the body back is that nobody takes it off the connection."""
    def frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    windows = frame(4, 0, 0, struct.pack(">HI", 4, (1 << 31) - 1)) + frame(8, 0, 0, struct.pack(">I", (1 << 31) - 65536))
    # HPACK: GET and http of the static table, path and authority as literals.
    head = b"\x82\x86\x04\x06/large\x01\x01a"
    client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + windows + frame(1, 5, 1, head))
    return iter(())


def uploads(client):
    """Sends as fast as it is taken."""
    client.sendall(f"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n".encode())
    client.setblocking(False)
    while True:
        with contextlib.suppress(BlockingIOError):
            while client.send(bytes(65536)):
                pass
        yield


def trickles(client):
    """Sends a hundred bytes at a time."""
    client.sendall(f"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n".encode())
    while True:
        client.sendall(bytes(100))
        yield


@contextlib.contextmanager
def deaf():
    """A backend that accepts and never reads."""
    listener = socket.create_server(("127.0.0.1", DEAF), backlog=4096)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    held = []

    def accept():
        with contextlib.suppress(OSError):
            while True:
                held.append(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in held:
            connection.close()


CASES = {
    "clients that do not read, HTTP/1.1": (lab.BACKEND, asks_http1),
    "clients that do not read, HTTP/2": (lab.BACKEND, asks_http2),
    "uploads to a backend that does not read": (DEAF, uploads),
    "uploads by a hundred bytes at a time": (DEAF, trickles),
}

if __name__ == "__main__":
    main()
