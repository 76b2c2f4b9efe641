"""The page: says what the cells say, no more, and in a width that can be read."""

from __future__ import annotations

import io
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from diffusers_erasure.benchmark.cells import cells
from diffusers_erasure.benchmark.earlier import read_earlier
from diffusers_erasure.benchmark.page import PAGE, RESULTS, STORED, texts, write_page
from diffusers_erasure.benchmark.plots import CLEAR, PANEL, Place, apart, attacks_plot, retention_plot
from diffusers_erasure.benchmark.profiles import ATTACKS, CONCEPTS, PROFILES
from diffusers_erasure.benchmark.shown import Shown
from diffusers_erasure.benchmark.stored import CellRecord, Stored, read_stored
from diffusers_erasure.benchmark.tables import excess_table, plain_table, typed_table, worst_table
from diffusers_erasure.benchmark.variants import METHODS
from diffusers_erasure.cli.bench import settings_of
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
    assert "| *before* | 20/20 (84–100) | – | 20/20 (84–100) |  |  |" in plain_table(shown(*cells)).text
    assert "| ESD-x | 0/20 (0–16) | – | 0/20 (0–16) | measured | 1 of 1 |" in plain_table(shown(*cells)).text
    assert "| ESD-x | 5/20 (11–47) | – | – | 2/20 (3–30) | – |" in typed_table(shown(*cells)).text
    assert "| UCE | – | – | – | – | – |" in typed_table(shown(*cells)).text
    assert "| ESD-x | – | – | 5/20 or more | 5/20 or more |" in worst_table(shown(*cells)).text


def test_an_excess_is_starred_only_if_it_is_shown() -> None:
    much = shown(cell_record("esd", attacks={"unlearndiffatk": 18, "random_tokens": 2}))
    little = shown(cell_record("esd", attacks={"unlearndiffatk": 3, "random_tokens": 2}))
    assert re.search(r"\| ESD-x \| \+80 \(p 3e-05\) \\\* \|", excess_table(much).text)
    assert "| ESD-x | +5 (p 1) | –" in excess_table(little).text


def test_a_degenerate_training_is_never_shown_as_robust() -> None:
    cells = shown(cell_record("esd", verdict=Verdict.DEGENERATE, attacks=dict.fromkeys(ATTACKS, 0)))
    for table in (typed_table, worst_table, excess_table):
        row = next(line for line in table(cells).text.splitlines() if "ESD-x" in line)
        assert "degenerate" in row
        assert "0/20" not in row
    assert "| degenerate |" in plain_table(cells).text


def test_an_empty_benchmark_says_so_everywhere() -> None:
    files = texts(stored())
    assert "of 285, **0 have figures** and **1 are finished**" in files[PAGE]
    assert files[PAGE].count("Not measured yet.") == 4
    assert (
        "confirmed: 0, agrees with the paper: 0, not confirmed: 0, undecided: 0, not measured yet: 23"
        in (files[PAGE])
    )
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
    assert decided["advunlearn-esd"] == "undecided"  # both are brought back as often
    assert decided["target-excess"] == "confirmed"
    assert decided["layers"] == "not measured yet"
    assert decided["inversion"] == "undecided"
    assert found["recommendation"][0]["most robust"] == "UCE"
    assert "- **undecided**: AdvUnlearn resists UnlearnDiffAtk far better than ESD" in files[PAGE]
    assert "at most 0.5 times as often: undecided (84/408 against 84/408: +0.0 points" in files[PAGE]


def test_a_page_of_what_does_not_erase_is_narrow_too_and_says_what_the_mark_means() -> None:
    cells = every_cell()
    sets = (cells[0].sets[0].model_copy(update={"erased": N}), *cells[0].sets[1:])
    still = [cell.model_copy(update={"sets": sets}) for cell in cells]
    text = texts(stored(*still))[PAGE]
    assert max(widths(text)) <= WIDEST
    assert "| AdvUnlearn fast AT † |" in text
    assert text.count("† not erased: the judge still sees it in more than 20 %") == 4  # three ablations


def test_the_page_says_when_the_rules_were_changed_and_how_hard_attacks_tried() -> None:
    text = texts(stored(*every_cell()))[PAGE]
    assert (
        "The rules were last changed on 2026-11-23, after a review of their statistics, when figures" in text
    )
    assert "before the figures" not in text
    assert "† not erased" not in text
    assert "| UnlearnDiffAtk | 80 steps | 2,000 steps | 4 % | 11 of 51 |" in text
    assert "| Ring-A-Bell | 2,400 candidates | 600,000 candidates | 0.4 % | 2 of 2 |" in text
    assert "chosen under quick UnlearnDiffAtk, on other prompts and seeds" in text
    assert "while P4D (16 tokens) and Ring-A-Bell (16 tokens) put others in its place" in text
    assert "Prompts that UnlearnDiffAtk with its quick budget brings back" in text


def test_a_part_is_marked_even_before_it_is_measured() -> None:
    cells = [cell_record(slug, "dog", attacks={"unlearndiffatk": 5}) for slug in ("aegis", "aegis-no-target")]
    text = texts(stored(*cells))[PAGE].split("## What AEGIS's parts are for")[1]
    assert re.search(r"^\| AEGIS \| .*\|  \|$", text, flags=re.MULTILINE)
    assert re.search(r"^\| no erasure target \| 0/20 .*\| undecided \|$", text, flags=re.MULTILINE)
    assert "| no projection | – | – | – | – | not measured yet |" in text
    assert "| no adversarial prompt | – | – | – | – | no claim of it |" in text


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


def test_marks_that_would_cover_each_other_are_moved_on_the_drawn_scale() -> None:
    def place(label: str, change: float) -> Place:
        return Place(label, change, 100.0, (5.0, 0.0), None, broken=False)

    lowest = -40.0
    places = [place(str(index), change) for index, change in enumerate((0.0, 0.0, 0.3, -20.0, 0.1, 0.0))]
    drawn, highest = apart(places, lowest)
    size = CLEAR / PANEL * (highest - lowest)
    found = sorted(one.change for one in drawn)
    assert all(b - a > 0.99 * size for a, b in pairwise(found))
    assert found[-1] < highest
    assert found[:2] == [-20.0, 0.0]  # nothing is moved without need
    assert [one.label for one in drawn] == ["3", "0", "1", "5", "4", "2"]  # and none past another


def test_attacks_that_nothing_was_measured_with_are_left_out() -> None:
    def width(attacks: tuple[str, ...]) -> int:
        cells = [cell_record("esd", attacks=dict.fromkeys(attacks, 3))]
        with Image.open(io.BytesIO(attacks_plot(shown(*cells)))) as image:
            return image.width

    assert width(ATTACKS[:2]) < width(ATTACKS[:4]) < width(ATTACKS)


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


def test_the_published_figures_are_of_what_the_variants_stand_for() -> None:
    found = read_stored(PUBLISHED / STORED)
    every = [cell for one in PROFILES.values() for cell in cells(one, PUBLISHED)]
    told = read_earlier([PUBLISHED / STORED], found.prompts).known_to(every, settings_of)
    known = {(cell.variant.slug, cell.concept, cell.seed) for cell in told if cell.known is not None}
    assert len(known) == len(found.cells)
