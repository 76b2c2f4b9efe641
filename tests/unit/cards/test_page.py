"""A card as a page: everything inside, nothing executed."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from diffusers_erasure.cards import render_card
from diffusers_erasure.cards.page import card_page


def test_a_page_needs_no_other_file(folder: Path, attach: Callable[..., Path], tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "grid.png")
    data = (tmp_path / "grid.png").read_bytes()
    attach(folder, "grid.png", data)
    card = render_card(folder, repo_id="someone/church")
    page = card_page(card, folder)
    assert f'src="data:image/png;base64,{base64.b64encode(data).decode()}"' in page
    assert not re.search(r'src="(?!data:)', page)
    assert "<script" not in page
    assert page.count("<table>") == card.count("\n| ---") + card.count("\n|---") + 1
    assert "<h1>church, erased with UCE</h1>" in page
    assert "<title>church, erased with UCE</title>" in page
    assert "<td>library_name</td><td><code>diffusers</code></td>" in page


def test_results_are_told_in_words(evaluated: Path) -> None:
    page = card_page(render_card(evaluated), evaluated)
    assert "own name: pre_attack_asr = 4.0" in page


def test_html_of_a_card_is_shown_and_not_read() -> None:
    page = card_page("---\nlicense: <i>x</i>\n---\n# a <b>\n\n<script>alert(1)</script>\n")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;i&gt;x&lt;/i&gt;" in page


def test_pictures_from_elsewhere_are_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    page = card_page("![a](../grid.png) ![b](https://example.org/b.png) ![c](secret.txt)\n", tmp_path)
    assert "<img" not in page
    assert page.count("is not here") == 3
