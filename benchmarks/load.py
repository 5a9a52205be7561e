"""The load: connections that keep so many messages each in flight, and count the echoes.

It knows no WebSocket library. Frames are built beforehand; what comes back is read in large
pieces and compared with the echo that the first message had, so counting is a division. It
also says how busy it was itself: near 1 it is the load that was measured, not the server.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import time

from benchmarks.servers import LOAD_CORE, pin
from benchmarks.wire import TEXT, close, connect, frame, learn_echo

READ = 2**18
CLEAN_UP = 5.0


class Connection:
    """One connection: what it must still send, and where in the echoes it stands."""

    __slots__ = ("received", "sock", "taken", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = 0  # bytes
        self.taken = 0  # messages given to `Load.send`
        self.unsent = b""


class Load:
    """So many connections, each with so many messages in flight."""

    def __init__(self, port: int, connections: int, window: int, size: int) -> None:
        payload = b"x" * size
        self.frames = [frame(TEXT, payload) * count for count in range(window + 1)]
        self.clients = [Connection(connect(port)) for _ in range(connections)]
        echo = learn_echo(self.clients[0].sock, payload)
        self.length = len(echo)
        self.expected = echo * (READ // len(echo) + 2)
        self.poll = select.epoll()
        self.by_file: dict[int, Connection] = {}
        for client in self.clients:
            client.sock.setblocking(False)
            self.by_file[client.sock.fileno()] = client
            self.poll.register(client.sock, select.EPOLLIN)

    def send(self, client: Connection, messages: int) -> None:
        """Send so many messages, or what the kernel takes of them; the rest follows."""
        data = client.unsent + self.frames[messages]
        client.taken += messages
        try:
            sent = client.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data) and not client.unsent:
            self.poll.modify(client.sock, select.EPOLLIN | select.EPOLLOUT)
        elif sent == len(data) and client.unsent:
            self.poll.modify(client.sock, select.EPOLLIN)
        client.unsent = data[sent:]

    def receive(self, client: Connection) -> int:
        """Read once, compare, and return how many echoes are now complete."""
        data = client.sock.recv(READ)
        before, length = client.received, self.length
        if not data or not self.expected.startswith(data, before % length):
            raise ValueError(f"not the echo: {data[:40]!r}")
        client.received = after = before + len(data)
        return after // length - before // length

    def run(self, seconds: float) -> int:
        """Send a message for each echo that comes back; return their number."""
        echoes = 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for file, events in self.poll.poll(0.1):
                client = self.by_file[file]
                if events & select.EPOLLOUT:
                    self.send(client, 0)
                if events & ~select.EPOLLOUT and (done := self.receive(client)):
                    echoes += done
                    self.send(client, done)
        return echoes

    def finish(self) -> None:
        """Take the echoes still under way and close, so that the server is idle after."""
        for client in self.clients:
            client.sock.settimeout(CLEAN_UP)
            client.sock.sendall(client.unsent)
            while client.received < client.taken * self.length:
                self.receive(client)
            close(client.sock)
        self.poll.close()


def measure(
    port: int, connections: int, window: int, size: int, seconds: float
) -> dict[str, float]:
    """Return echoes per second, after a warm-up of a fifth of the time, and our own load."""
    load = Load(port, connections, window, size)
    for client in load.clients:
        load.send(client, window)
    load.run(seconds / 5)
    start, busy = time.perf_counter(), time.process_time()
    echoes = load.run(seconds)
    elapsed, busy = time.perf_counter() - start, time.process_time() - busy
    if not echoes:
        raise TimeoutError("no echo came back")
    load.finish()
    return {"rate": echoes / elapsed, "load": busy / elapsed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Load one echo server; prints JSON.")
    parser.add_argument("port", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("window", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    pin(LOAD_CORE)
    print(json.dumps(measure(**vars(options))))
