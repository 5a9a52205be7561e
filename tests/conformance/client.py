"""The client under test: it asks for the number of cases, and echoes in each, one after the other.

Its exit status is 1 if a case had no connection; what became of the others, the suite reports.
"""

from __future__ import annotations

import argparse
import logging
import ssl
import sys
from urllib.parse import quote

import trio

import trioweb
from tests.conformance.server import DEFLATE, LIMITS, echo

logger = logging.getLogger("tests.conformance.client")


async def run_cases(url: str, agent: str, ssl_context: ssl.SSLContext | None = None) -> int:
    """Echo in every case of the suite at ``url``; return how many had no connection."""
    unconnected = 0
    async with trioweb.connect(f"{url}/getCaseCount", ssl_context=ssl_context) as ws:
        count = int(await ws.receive())
    for case in range(1, count + 1):
        try:
            async with trioweb.connect(
                f"{url}/runCase?case={case}&agent={quote(agent)}",
                ssl_context=ssl_context,
                limits=LIMITS,
                deflate=DEFLATE,
            ) as ws:
                await echo(ws)
        except trioweb.ConnectionEnded as error:
            # The suite breaks the protocol on purpose: most cases end so.
            logger.info("case %d ended: %s", case, error)
        except trioweb.TriowebError:
            logger.exception("case %d has no connection", case)
            unconnected += 1
    return unconnected


def main() -> int:
    """Run as the command line says; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.client", description=__doc__)
    parser.add_argument("url", help="where the suite listens")
    parser.add_argument("--agent", default="trioweb-client", help="its name in the report")
    parser.add_argument("--ca", help="trust this certificate authority, a PEM file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    context = None if options.ca is None else ssl.create_default_context(cafile=options.ca)
    return 1 if trio.run(run_cases, options.url, options.agent, context) else 0


if __name__ == "__main__":
    sys.exit(main())
