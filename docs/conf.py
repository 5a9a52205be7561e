"""Sphinx configuration: MyST pages, autodoc for the reference, no network needed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

_project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = _project["name"]
author = copyright = _project["authors"][0]["name"]
version = release = _project["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False

myst_heading_anchors = 3

default_role = "py:obj"
add_module_names = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

# Two classes of one name, a link of the virtual network and one of the toolkit: that is no mistake.
suppress_warnings = ["ref.python"]

nitpick_ignore_regex = [
    # Other projects, and the inside of this one, are plain text: there are no pages to link to.
    (
        r"py:.*",
        r"(_pytest|abc|collections|contextlib|contextvars|enum|msgspec|pathlib|random|signal|socket|ssl|trio|trio_websocket|typing)\..*",
    ),
    (r"py:.*", r"(.*\.)?_[A-Z]\w*"),
    (
        r"py:.*",
        r"trioweb\.(_steps|heartbeat|lifecycle|listening|nursery|outbox|protocol|reading|serving|steps|tls|transport|toolkit\.(calling|methods\.Method|peer\.Tally))\b.*",
    ),
    (r"py:.*", r"trioweb\.options\.Options"),
    (r"py:.*", r"trioweb\.toolkit\.(endpoints\.Endpoints|feed\.Feed)"),
    (r"py:.*", r"trioweb\.retrying\.Retries"),
    (r"py:class", r"WebSocketConnection"),
    # What Sphinx makes of a union with a tuple in it: the type up to its comma.
    (r"py:class", r"tuple\[str"),
    # A name in backticks may be a parameter; where it is more, `_by_short_name` links it.
    (r"py:obj", r".*"),
]


def _by_short_name(app: Sphinx, env: Any, node: Any, content: nodes.TextElement) -> Any:
    """Let docstrings say `EndOfChannel` or `Timeouts.close`, wherever that is defined."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target:
        return None
    domain = env.domains.python_domain
    full_names = [
        name
        for name, entry in domain.objects.items()
        if name.endswith(f".{target}") and not entry.aliased
    ]
    if len(full_names) != 1:
        return None
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], full_names[0], node, content
    )


def setup(app: Sphinx) -> None:
    """Register what is our own."""
    app.connect("missing-reference", _by_short_name)
