"""The page: says what the cells say, no more, and in a width that can be read."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from diffusers_erasure.benchmark.page import PAGE, RESULTS, STORED, texts, write_page
from diffusers_erasure.benchmark.plots import attacks_plot, retention_plot
from diffusers_erasure.benchmark.profiles import ATTACKS, CONCEPTS
from diffusers_erasure.benchmark.stored import CellRecord, Stored, read_stored
from diffusers_erasure.benchmark.tables import Shown, excess_table, plain_table, typed_table, worst_table
from diffusers_erasure.benchmark.variants import METHODS
from diffusers_erasure.evaluation.records import Verdict

from .made_cells import N, cell_record, figures, marks

PUBLISHED = Path(__file__).parents[3] / "docs" / "benchmark"
WIDEST = 108
"""Characters in a row of a table that a code host shows without a bar to move it."""


def stored(*cells: CellRecord, profile: str = "full") -> Stored:
    return Stored(profile=profile, prompts=N, seeds=(0,), planned=285, finished=1, cells=cells)


def shown(*cells: CellRecord, attacks: tuple[str, ...] = ATTACKS) -> Shown:
    return Shown(figures(*cells), METHODS, ("church",), attacks)


def widths(text: str) -> list[int]:
    """Characters that the tables of a page take as they are shown, two between columns."""
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    found = []
    for table in tables:
        columns = zip(*(line.strip("| ").split(" | ") for line in table.splitlines()), strict=False)
        found.append(sum(max(map(len, cells)) + 2 for cells in columns))
    return found


def every_cell() -> list[CellRecord]:
    """As many prompts as the full grid has, in one training of each."""
    many = {name: marks(21, 102, at=1 if "_" in name else None) for name in ATTACKS}
    return [cell_record(one.slug, concept, attacks=many) for one in METHODS for concept in CONCEPTS]


def test_a_row_says_counts_and_intervals() -> None:
    cells = (cell_record("esd"), cell_record("uce", attacks={}))
    assert "| *before* | 20/20 (84–100) | – | 20/20 (84–100) |  |  |" in plain_table(shown(*cells))
    assert "| ESD-x | 0/20 (0–16) | – | 0/20 (0–16) | measured | 1 of 1 |" in plain_table(shown(*cells))
    assert "| ESD-x | 5/20 (11–47) | – | – | 2/20 (3–30) | – |" in typed_table(shown(*cells))
    assert "| UCE | – | – | – | – | – |" in typed_table(shown(*cells))
    assert "| ESD-x | – | – | 5/20 or more | 5/20 or more |" in worst_table(shown(*cells))


def test_an_excess_is_starred_only_if_it_is_shown() -> None:
    much = shown(cell_record("esd", attacks={"unlearndiffatk": 18, "random_tokens": 2}))
    little = shown(cell_record("esd", attacks={"unlearndiffatk": 3, "random_tokens": 2}))
    assert re.search(r"\| ESD-x \| \+80 \(p 3e-05\) \\\* \|", excess_table(much))
    assert "| ESD-x | +5 (p 1) | –" in excess_table(little)


def test_a_degenerate_training_is_never_shown_as_robust() -> None:
    cells = shown(cell_record("esd", verdict=Verdict.DEGENERATE, attacks=dict.fromkeys(ATTACKS, 0)))
    for table in (typed_table, worst_table, excess_table):
        row = next(line for line in table(cells).splitlines() if "ESD-x" in line)
        assert "degenerate" in row
        assert "0/20" not in row
    assert "| degenerate |" in plain_table(cells)


def test_an_empty_benchmark_says_so_everywhere() -> None:
    files = texts(stored())
    assert "1 of 285 cells are finished" in files[PAGE]
    assert files[PAGE].count("Not measured yet.") == 4
    assert "0 confirmed, 0 not confirmed, 23 not measured yet" in files[PAGE]
    assert "not measured yet (11 of the methods still miss cells)" in files[PAGE]
    assert "](robustness" not in files[PAGE]
    assert "Not measured yet." in files["santa-claus.md"]


def test_a_full_benchmark_is_narrow_and_decides() -> None:
    files = texts(stored(*every_cell()))
    assert {f"{name.replace(' ', '-')}.md" for name in CONCEPTS} < set(files)
    for name, text in files.items():
        if name.endswith(".md"):
            assert max(widths(text)) <= WIDEST
    found = json.loads(files[RESULTS])
    decided = {one["key"]: one["status"] for one in found["claims"]}
    assert decided["advunlearn-esd"] == "not confirmed"  # both are brought back as often
    assert decided["layers"] == "not measured yet"
    assert found["recommendation"][0]["most robust"] == "UCE"
    assert "- **not confirmed**: AdvUnlearn resists UnlearnDiffAtk far better than ESD" in files[PAGE]
    assert "no (" in files[PAGE]


def test_a_small_profile_shows_only_what_it_has() -> None:
    page = texts(stored(cell_record("uce"), profile="short"))
    assert set(page) == {PAGE, RESULTS}
    assert "Soft prompt" not in page[PAGE]
    assert "What the papers claim" not in page[PAGE]


def test_pictures_have_room_for_every_method() -> None:
    cells = every_cell()
    everything = Shown(figures(*cells), METHODS, CONCEPTS, ATTACKS)
    for picture in (retention_plot(everything), attacks_plot(everything)):
        with Image.open(io.BytesIO(picture)) as image:
            assert image.width > 800
            assert len(set(image.convert("L").tobytes())) > 20


def test_the_page_is_made_again_from_its_own_file(tmp_path: Path) -> None:
    first = stored(cell_record("uce"), cell_record("esd", "dog"))
    written = write_page(first, tmp_path / "one")
    assert {file.name for file in written} >= {PAGE, STORED, "robustness-retention.png", "attacks.png"}
    write_page(read_stored(tmp_path / "one" / STORED), tmp_path / "two")
    for file in written:
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.skipif(not (PUBLISHED / STORED).is_file(), reason="no page is published yet")
def test_the_published_page_is_what_its_file_says() -> None:
    for name, text in texts(read_stored(PUBLISHED / STORED)).items():
        assert (PUBLISHED / name).read_text(encoding="utf-8") == text, f"write {name} again"
