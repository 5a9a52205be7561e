"""What must be built or fetched once, in a folder that git ignores: the load, Node's ws, a key."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"
SOURCES = [HERE / name for name in ("load.c", "wire.c", "frames.c", "wire.h")]
WARNINGS = ["-O2", "-Wall", "-Wextra", "-Werror"]
#: The version of ws that is compared; npm takes the newest of it.
WS = "ws@8"


class NotBuiltError(RuntimeError):
    """Something that a benchmark needs cannot be had here; the message says why."""


def run(*command: str | Path, folder: Path = HERE) -> None:
    """Run a program to its end; raises `NotBuiltError` with what it said."""
    if shutil.which(str(command[0])) is None:
        raise NotBuiltError(f"{command[0]} is not installed")
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotBuiltError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")


def load() -> Path:
    """Return the load generator, built anew when it is older than its source.

    Without OpenSSL's headers it is built without TLS, and says so when asked for that.
    """
    program = BUILD / "load"
    if program.exists() and all(
        program.stat().st_mtime > source.stat().st_mtime for source in SOURCES
    ):
        return program
    BUILD.mkdir(exist_ok=True)
    new = BUILD / f"load.{os.getpid()}"  # another run may be using the old one
    sources = [source for source in SOURCES if source.suffix == ".c"]
    try:
        run("cc", *WARNINGS, "-DWITH_TLS", "-o", new, *sources, "-lssl", "-lcrypto")
    except NotBuiltError:
        run("cc", *WARNINGS, "-o", new, *sources)
    new.replace(program)
    return program


def node_modules() -> Path:
    """Return the folder in which Node's ws is installed; npm fetches it at the first use."""
    folder = BUILD / "node"
    if not (folder / "node_modules" / "ws" / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        run("npm", "install", "--no-audit", "--no-fund", WS, folder=folder)
    return folder


def certificate() -> Path:
    """Return a file with a certificate of our own for 127.0.0.1 and its key (ECDSA, P-256)."""
    import trustme

    file = BUILD / "server.pem"
    if not file.exists():
        BUILD.mkdir(exist_ok=True)
        issued = trustme.CA().issue_cert("127.0.0.1", "localhost")
        file.touch(mode=0o600)
        file.write_bytes(
            issued.private_key_pem.bytes() + b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        )
    return file
