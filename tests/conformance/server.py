"""The server under test: it echoes every message, at every path.

It prints its URL once it listens, and ends at SIGTERM. Its exit status is 1 if anything was logged
as an error: no case of the suite may upset more than its own connection.
"""

from __future__ import annotations

import argparse
import logging
import signal
import ssl
import sys

import trio
import trustme

import trioweb

#: What 9.* wants: messages of 16 MiB, and of 4 MiB in frames of 64 bytes with a little room.
LIMITS = trioweb.Limits(max_message=2**24, max_fragments=2**17)
#: Every message compressed, also those that are too short to be worth it by default.
DEFLATE = trioweb.Deflate(threshold=0)


class ErrorCount(logging.Handler):
    """Counts what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors = 0

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - the signature is logging's
        """Count one."""
        self.errors += 1


async def echo(ws: trioweb.WebSocket) -> None:
    """Send back every message as it came."""
    async for message in ws:
        await ws.send(message)


def own_certificate() -> ssl.SSLContext:
    """Return TLS with a certificate made for this run; the suite trusts every one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued = trustme.CA().issue_cert("127.0.0.1")
    with issued.private_key_and_cert_chain_pem.tempfile() as path:
        context.load_cert_chain(path)
    return context


async def serve(port: int, *, tls: bool) -> None:
    """Serve until SIGTERM or SIGINT."""
    async with trioweb.open_server(
        echo,
        port,
        host="127.0.0.1",
        ssl_context=own_certificate() if tls else None,
        limits=LIMITS,
        deflate=DEFLATE,
        signals=(signal.SIGTERM, signal.SIGINT),
    ) as server:
        print(server.url, flush=True)
        await server.wait_drained()


def main() -> int:
    """Run as the command line says; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, finds a free one")
    parser.add_argument("--tls", action="store_true", help="serve wss")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    count = ErrorCount()
    logging.getLogger().addHandler(count)
    trio.run(lambda: serve(options.port, tls=options.tls))
    return 1 if count.errors else 0


if __name__ == "__main__":
    sys.exit(main())
