"""Patterns of paths: what they match, and which of two counts."""

from __future__ import annotations

import uuid
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb import Request, Router
from trioweb.patterns import CONVERTERS, Pattern, split_path

UUID = "01234567-89ab-CDEF-0123-456789abcdef"


def parse(text):
    return Pattern.parse(text, CONVERTERS)


def match(pattern, path):
    segments = split_path(path)
    return None if segments is None else parse(pattern).match(segments)


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        ("/", "/", {}),
        ("/a", "/a/", None),
        ("/a/", "/a/", {}),
        ("/{x}", "/", None),
        ("/{x}", "/%20", {"x": " "}),
        ("/{x}", "/a%2Fb", {"x": "a/b"}),
        ("/{x}", "/a/b", None),
        ("/{x}", "/..", None),
        ("/{x}", "/%2e%2E", None),
        ("/{x}", "/...", {"x": "..."}),
        ("/{x:str}", "/%FF", None),
        ("/{x:int}", "/007", {"x": 7}),
        ("/{x:int}", "/-1", {"x": -1}),
        ("/{x:int}", "/+1", None),
        ("/{x:int}", "/1_0", None),
        ("/{x:int}", "/1.0", None),
        ("/{x:int}", "/%D9%A1", None),  # a digit of Arabic
        ("/{x:int}", "/1%0A", None),
        ("/{x:int}", "/" + "9" * 5000, None),
        ("/{x:float}", "/1.50", {"x": 1.5}),
        ("/{x:float}", "/2", {"x": 2.0}),
        ("/{x:float}", "/nan", None),
        ("/{x:float}", "/1e5", None),
        pytest.param("/{x:float}", "/" + "9" * 400, None, id="no infinity"),
        ("/{x:uuid}", f"/{UUID}", {"x": uuid.UUID(UUID)}),
        ("/{x:uuid}", f"/{UUID.replace('-', '')}", None),
        ("/{x:uuid}", f"/{{{UUID}}}", None),
        ("/f/{x:path}", "/f/a", {"x": "a"}),
        ("/f/{x:path}", "/f/a//b%20/", {"x": "a//b /"}),
        ("/f/{x:path}", "/f/", None),
        ("/f/{x:path}", "/f", None),
        ("/f/{x:path}", "/f//etc/passwd", None),
        ("/f/{x:path}", "/f/a/../b", None),
        ("/f/{x:path}", "/f/a%2Fb", None),
        ("/{a}/b/{c:int}", "/x/b/3", {"a": "x", "c": 3}),
        ("/{a}/b/{c:int}", "/x/c/3", None),
        ("/{a}/b/{c:int}", "/x/b", None),
        ("/{a}", "*", None),
    ],
)
def test_match(pattern, path, values):
    assert match(pattern, path) == values


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("", "must start with /"),
        ("a", "must start with /"),
        ("/{", "neither text nor"),
        ("/a{b}", "neither text nor"),
        ("/{a}{b}", "neither text nor"),
        ("/{a:b:c}", "neither text nor"),
        ("/{}", "no name"),
        ("/{1}", "no name"),
        ("/{class}", "no name"),
        ("/{a b}", "no name"),
        ("/{a:number}", "no type 'number', only str, int"),
        ("/{a:}", "no type ''"),
        ("/{a}/{a}", "two parameters 'a'"),
        ("/{a:path}/b", "goes on behind"),
    ],
)
def test_bad_patterns_are_refused(pattern, says):
    with pytest.raises(ValueError, match=says):
        parse(pattern)


async def handler(ws, **parameters): ...


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("/{a}", "/{b}"),
        ("/{a}/x", "/y/{b}"),
        ("/{a:int}/{b}", "/{a}/{b:int}"),
        ("/{a:int}/{b}", "/{a:float}/{b:int}"),
        ("/{a:path}", "/{b:path}"),
        ("/x/{a:path}", "/{b}/y"),
        ("/{a:mine}", "/{a:int}"),
        ("/{a:mine}", "/{a:yours}"),
    ],
)
def test_two_patterns_that_may_match_one_path_and_are_none_the_narrower_are_refused(one, two):
    own = {"mine": lambda text: text, "yours": lambda text: text}
    for routes in ({one: handler, two: handler}, {two: handler, one: handler}):
        with pytest.raises(ValueError, match="may match both"):
            Router(routes, converters=own)


@pytest.mark.parametrize(
    ("patterns", "path", "index"),
    [
        (("/{a}", "/x"), "/x", 1),
        (("/{a}", "/{a:int}"), "/7", 1),
        (("/{a}", "/{a:int}"), "/x", 0),
        (("/{a:float}", "/{a:int}", "/{a}", "/{a:uuid}"), "/7", 1),
        (("/{a:float}", "/{a:int}", "/{a}", "/{a:uuid}"), "/7.5", 0),
        (("/{a:float}", "/{a:int}", "/{a}", "/{a:uuid}"), f"/{UUID}", 3),
        (("/{a:path}", "/{a}/{b}", "/{a}/x"), "/7/x", 2),
        (("/{a:path}", "/{a}/{b}", "/{a}/x"), "/7/y", 1),
        (("/{a:path}", "/{a}/{b}", "/{a}/x"), "/7/x/y", 0),
        (("/{a:path}", "/{a}/{b}", "/{a}/x"), "/a%2Fb", None),
        (("/{a:mine}", "/{a}"), "/x", 0),
        (("/{a:int}/x", "/{a:uuid}/{b}"), f"/{UUID}/x", 1),
        (("/{a:int}/{b}", "/me/{b}"), "/me/7", 1),
    ],
)
def test_the_narrower_pattern_counts(patterns, path, index):
    own = {"mine": lambda text: text}
    for order in (patterns, patterns[::-1]):
        found = Router(dict.fromkeys(order, handler), converters=own).match(Request(path))
        assert (found and found.pattern) == (None if index is None else patterns[index])


parts = st.text(min_size=1, max_size=8).filter(lambda text: text not in (".", ".."))


@given(values=st.lists(parts, min_size=1, max_size=4))
def test_whatever_is_quoted_comes_back(values):
    values = [value.encode("utf-8", "ignore").decode() or "x" for value in values]
    values = [value for value in values if value not in (".", "..")]
    pattern = "/" + "/".join(f"{{p{index}}}" for index in range(len(values))) if values else "/"
    path = "/" + "/".join(quote(value, safe="") for value in values)
    assert match(pattern, path) == {f"p{index}": value for index, value in enumerate(values)}


segments = st.sampled_from(
    ["a", "7", "1.5", "", "{x}", "{x:int}", "{x:float}", "{x:uuid}", "{x:path}"]
)
paths = st.lists(st.sampled_from(["a", "7", "1.5", "", "b", "..", UUID]), min_size=1, max_size=4)


@st.composite
def patterns(draw):
    drawn = draw(st.lists(segments, min_size=1, max_size=3))
    drawn = [one for one in drawn[:-1] if "path" not in one] + drawn[-1:]
    return "/" + "/".join(one.replace("x", f"p{index}") for index, one in enumerate(drawn))


@given(texts=st.lists(patterns(), min_size=1, max_size=6, unique=True), path=paths)
def test_what_a_router_takes_has_one_narrowest_match(texts, path):
    accepted: list[str] = []
    for text in texts:
        try:
            Router(dict.fromkeys([*accepted, text], handler))
        except ValueError:
            continue
        accepted.append(text)
    found = Router(dict.fromkeys(accepted, handler)).match(Request("/" + "/".join(path)))
    fits = sorted(
        (parse(text) for text in accepted if parse(text).match(path) is not None),
        key=lambda one: one.order,
    )
    assert (found and found.pattern) == (fits[0].text if fits else None)
    for narrow, wide in pairwise(fits):
        assert narrow.order < wide.order
        assert not narrow.is_ambiguous_with(wide)
