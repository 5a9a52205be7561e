"""Every chore of the project: ``nox -l`` lists them, ``nox`` alone lints and tests.

Each session makes its own environment from `pyproject.toml`; nothing needs to be installed
but Python and nox.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "tests"]
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True

PROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str, native: bool = True) -> None:
    """Install trioweb in place, with dependency groups of `pyproject.toml`.

    What is ``native`` is compiled anew each time, and so is never older than its sources.
    """
    requirements = nox.project.dependency_groups(PROJECT, *groups)
    session.install("-e", ".", *requirements, env={"TRIOWEB_PURE": "" if native else "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments after ``--`` go to pytest.

    The whole suite must cover 95 % of the lines and branches; a part of it need not. It runs with
    the native modules, and what concerns the pure ones with those, too. Warnings are errors by
    pytest's configuration, so they are in a run without nox too.
    """
    install(session, "tests")
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs)
        return
    session.run("coverage", "erase")
    session.run("python", "-m", "tests")
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the protocol's tests with sanitizers in the native modules; arguments go to pytest."""
    # trioweb itself is not installed: what the session builds is what must be found.
    dependencies = PROJECT["project"]["dependencies"]
    session.install(*dependencies, *nox.project.dependency_groups(PROJECT, "protocol"))
    session.run("python", "-m", "tests.sanitize", *session.posargs)


@nox.session
def simulate(session: nox.Session) -> None:
    """Run drawn programs over a faulty network; ``-- --seconds 600 --seed 1`` (``-- --help``)."""
    install(session, "tests")
    session.run("python", "-m", "tests.simulation", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz the protocol on every core; ``-- --seconds 1800 --jobs 2 --seed 1`` (``-- --help``)."""
    install(session, "fuzz")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """Run the Autobahn Testsuite against both ends; ``-- --full`` every case (``-- --help``)."""
    install(session, "tests")
    session.install("pip")  # it fetches the suite, and not every kind of environment has it
    session.run("python", "-m", "tests.conformance", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure trioweb beside its peers; ``-- --quick`` in two minutes (``-- --help``)."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and types: ruff, mypy strict, pyright strict."""
    install(session, "lint", native=False)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into ``docs/_build/html``; warnings are errors."""
    install(session, "docs", native=False)
    session.run(
        *("sphinx-build", "-b", "html", "-n", "-W", "--keep-going", *session.posargs),
        *("docs", "docs/_build/html"),
    )
    session.log("built: docs/_build/html/index.html")


@nox.session
def game(session: nox.Session) -> None:
    """Serve the arena, the example game; arguments after ``--`` go to it (try ``-- --help``)."""
    install(session)
    session.run("python", "-m", "examples.arena", *session.posargs, success_codes=[0, 130])


@nox.session
def chat(session: nox.Session) -> None:
    """Serve the chat, the other example; arguments after ``--`` go to it (try ``-- --help``)."""
    install(session)
    session.run("python", "-m", "examples.chat", *session.posargs, success_codes=[0, 130])
