"""Values from records: they stay text, whatever they are made of."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from diffusers_erasure.cards.markdown import Table, code, one_line, plain, slug

READER = MarkdownIt("commonmark", {"html": False}).enable("table")
HOSTILE = [
    "a | b",
    "a\n---\nb: c",
    "---",
    "# heading",
    "- item",
    "1. item",
    "![x](https://example.org/x.png)",
    "[x](javascript:alert(1))",
    "<script>alert(1)</script>",
    "`code` ``more``",
    "*bold* _low_ ~~gone~~",
    "a\\|b",
    "&lt;b&gt;",
    "van gogh\u202e\x00",
    "text_encoder",
]


def cells(table: Table) -> list[str]:
    """Texts of the body's cells, as a reader sees them."""
    tokens = READER.parse(str(table))
    found = []
    for before, token in pairwise(tokens):
        if before.type == "td_open":
            assert all(
                child.type in {"text", "code_inline", "text_special"} for child in token.children or ()
            )
            found.append("".join(child.content for child in token.children or ()))
    return found


@pytest.mark.parametrize("make", [plain, code])
@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_is_one_cell_of_text(value: str, make: object) -> None:
    table = Table.of(("name", "value"), [(make(value), "kept")])  # type: ignore[operator]
    assert cells(table) == [one_line(value), "kept"]


@given(st.text(min_size=1, max_size=40).filter(one_line))
def test_any_value_is_one_cell_of_text(value: str) -> None:
    assert cells(Table.of(("name", "value"), [(plain(value), "kept")])) == [one_line(value), "kept"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_is_a_heading_of_text(value: str) -> None:
    tokens = READER.parse(f"# {plain(value)}, erased\n")
    assert [token.type for token in tokens] == ["heading_open", "inline", "heading_close"]
    assert "".join(child.content for child in tokens[1].children or ()) == f"{one_line(value)}, erased"


def test_numbers_are_aligned_to_the_right() -> None:
    table = Table.of(("name", "n"), [("church", "3")], numbers=("n",))
    assert str(table) == "| name | n |\n| --- | ---: |\n| church | 3 |"


@pytest.mark.parametrize(
    ("value", "tag"), [("My Method: 2!", "my-method-2"), ("---\na: b", "a-b"), ("!", "")]
)
def test_a_tag_is_a_word(value: str, tag: str) -> None:
    assert slug(value) == tag
