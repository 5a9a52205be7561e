"""The Autobahn Testsuite in a folder of its own: nothing on the machine is installed or changed.

The suite speaks Python 2.7, which Debian last had in release 11. `ready` unpacks that interpreter's
packages, signed by Debian, and puts the suite from PyPI beside it, every file pinned by its hash.
It needs apt-get with the Debian archive's keyring, dpkg, gcc, the network and a minute, once;
neither root nor a container. amd64 only, since hashes and packages are.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Suite", "SuiteUnavailable", "mirrors", "ready"]

HERE = Path(__file__).parent
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = (
    *("python2.7", "python2.7-minimal", "libpython2.7-minimal", "libpython2.7-stdlib"),
    *("libpython2.7-dev", "libssl1.1", "libffi7"),
)
BOOT = HERE / "requirements-boot.txt"
REQUIREMENTS = HERE / "requirements-py2.txt"
#: Seconds for one step of setting up; the longest takes about thirty.
STEP = 600


class SuiteUnavailable(Exception):
    """The suite cannot be set up here; the text says what is missing, or how the step failed."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite that is ready to run."""

    folder: Path

    def command(self, mode: str, spec: Path) -> list[str]:
        """Return the command line for a mode, ``fuzzingclient`` or ``fuzzingserver``."""
        # -u 0: without the web page, which would want a port of its own.
        return [*self.program(), "-m", mode, "-s", str(spec), "-u", "0"]

    def program(self) -> list[str]:
        """Return the command line without arguments."""
        return [
            *("env", *(f"-u{name}" for name in os.environ if name.startswith("PYTHON"))),
            *(f"{name}={value}" for name, value in _environment(self.folder).items()),
            *(str(_interpreter(self.folder)), "-u", str(HERE / "wstest")),
            str(self.folder / "site"),
        ]


def ready(cache: Path) -> Suite:
    """Return the suite in a cache folder, set up first if it is not there; says so if it is long.

    Raises `SuiteUnavailable`. Killed half-way it leaves nothing that a later call would trust.
    """
    contents = BOOT.read_bytes() + REQUIREMENTS.read_bytes() + repr(PACKAGES).encode()
    folder = cache.resolve() / f"autobahn-{hashlib.sha256(contents).hexdigest()[:12]}"
    if folder.is_dir():
        return Suite(folder)
    _check_machine()
    print(f"setting up the Autobahn Testsuite in {folder}, once: about a minute", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    # Beside its place, and moved there when it is whole: nothing in it knows where it lies.
    with tempfile.TemporaryDirectory(dir=cache.resolve(), prefix="setting-up-") as made:
        _set_up(Path(made), cache.resolve() / "autobahn.log")
        if not folder.is_dir():  # two runs at once may both get here
            Path(made, "suite").rename(folder)
    return Suite(folder)


def mirrors(sources: Iterable[str]) -> tuple[str, str]:
    """Return the addresses of Debian's archive and of its security archive.

    They are those that this machine's apt uses for its own release, read from the texts of its
    source lists; ``DEBIAN_MIRROR`` and ``DEBIAN_SECURITY`` in the environment are stronger.
    """
    addresses: list[str] = []
    for text in sources:
        addresses += re.findall(r"^URIs:\s*(\S+)", text, re.MULTILINE)
        addresses += re.findall(r"^deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s", text, re.MULTILINE)
    found: list[str] = []
    for variable, end in ("DEBIAN_MIRROR", "/debian"), ("DEBIAN_SECURITY", "/debian-security"):
        candidates = [address for address in addresses if address.rstrip("/").endswith(end)]
        address = os.environ.get(variable) or next(iter(candidates), None)
        if address is None:
            raise SuiteUnavailable(f"apt's sources name no mirror of {end[1:]}: set {variable}")
        found.append(address)
    return found[0], found[1]


def _check_machine() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SuiteUnavailable("the suite's interpreter is for Linux on amd64")
    missing = [name for name in ("apt-get", "dpkg", "gcc") if shutil.which(name) is None]
    if missing:
        raise SuiteUnavailable(f"to set the suite up, {', '.join(missing)} must be there")
    if not Path(KEYRING).is_file():
        raise SuiteUnavailable(f"{KEYRING} is missing: package debian-archive-keyring")


def _set_up(made: Path, log: Path) -> None:
    suite, scratch = made / "suite", made / "scratch"
    site, boot, wheels = suite / "site", scratch / "boot", scratch / "wheels"
    for folder in (suite, boot, wheels):
        folder.mkdir(parents=True)
    log.write_text("")
    _unpack_interpreter(scratch, suite / "root", log)
    pip = ("-m", "pip", "--disable-pip-version-check")
    pinned = ("--no-deps", "--require-hashes", "-r")
    here = (sys.executable, *pip, "download", "-d", str(wheels), "--only-binary", ":all:")
    _step([*here, *pinned, str(BOOT)], log)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(boot)
    include = suite / "root/usr/include"
    there = (str(_interpreter(suite)), *pip, "install", "--target", str(site), "--no-compile")
    _step(
        [*there, "--no-build-isolation", "--prefer-binary", *pinned, str(REQUIREMENTS)],
        log,
        {
            **os.environ,
            **_environment(suite),
            "PYTHONPATH": str(boot),
            "CFLAGS": f"-I{include}/python2.7 -I{include}",
        },
    )
    _step([*Suite(suite).program(), "--autobahnversion"], log)


def _unpack_interpreter(scratch: Path, root: Path, log: Path) -> None:
    """Unpack Debian 11's Python 2.7, by an apt that has folders of its own."""
    apt = scratch / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "debs"):
        (apt / folder).mkdir(parents=True)
    lists = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), *lists.glob("*.list"), *lists.glob("*.sources")]
    main, security = mirrors(file.read_text() for file in files if file.is_file())
    signed = f"deb [arch=amd64 signed-by={KEYRING}]"
    (apt / "sources.list").write_text(
        f"{signed} {main} bullseye main\n{signed} {security} bullseye-security main\n"
    )
    (apt / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{apt}/sources.list";\n'
        'Dir::Etc::SourceParts "-";\n'
        f'Dir::State::Lists "{apt}/lists";\n'
        f'Dir::Cache "{apt}/cache";\n'
        # No change of user: apt's own could not write here.
        'APT::Sandbox::User "root";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
    _step(["apt-get", "-q", "update"], log, environment)
    _step(["apt-get", "-q", "download", *PACKAGES], log, environment, apt / "debs")
    for package in sorted((apt / "debs").glob("*.deb")):
        _step(["dpkg", "-x", str(package), str(root)], log)


def _interpreter(suite: Path) -> Path:
    return suite / "root/usr/bin/python2.7"


def _environment(suite: Path) -> dict[str, str]:
    return {
        "PYTHONHOME": str(suite / "root/usr"),
        "LD_LIBRARY_PATH": str(suite / "root/usr/lib/x86_64-linux-gnu"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _step(
    command: Sequence[str],
    log: Path,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Run one step, its output to the log; raise `SuiteUnavailable` with its end if it fails."""
    with log.open("a") as output:
        print("$", *command, file=output, flush=True)
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                timeout=STEP,
                check=False,
            )
            failed = done.returncode != 0
        except subprocess.TimeoutExpired:
            failed = True
    if failed:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SuiteUnavailable(f"setting up failed, see {log}:\n{end}")
