"""Rows are compared over trainings that all of them have, and the page says which these are."""

from __future__ import annotations

from diffusers_erasure.benchmark.shown import ALL, Shown
from diffusers_erasure.benchmark.stored import CellRecord
from diffusers_erasure.benchmark.tables import cost_table, plain_table, summary_rows, typed_table
from diffusers_erasure.benchmark.variants import METHODS

from .made_cells import cell_record, figures

CONCEPTS = ("church", "weapons")
UDA = "unlearndiffatk"


def shown(*cells: CellRecord) -> Shown:
    return Shown(figures(*cells, seeds=(0, 1)), METHODS, CONCEPTS, (UDA, "p4d", "random_tokens"))


def row(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {label}"))


ESD = (
    cell_record("esd", "church", 0, attacks={UDA: 4, "random_tokens": 1}),
    cell_record("esd", "church", 1, attacks={UDA: 6, "random_tokens": 1}),
    cell_record("esd", "weapons", 0, attacks={UDA: 20, "random_tokens": 19}),
)


def test_a_hard_concept_that_only_one_row_has_is_left_out() -> None:
    """UCE was not tried on weapons, which is no merit: both are compared over the church alone."""
    uce = [cell_record("uce", "church", seed, attacks={UDA: 8}) for seed in (0, 1)]
    table = typed_table(shown(*ESD, *uce))
    assert row(table.text, "ESD-x").startswith("| ESD-x | 10/40 (")
    assert "| – | 21/60 (" in row(table.text, "ESD-x")  # of luck it is the only row
    assert row(table.text, "UCE").startswith("| UCE | 16/40 (")
    every = "the trainings (seeds) that every row has: church (0, 1)"
    assert table.over == f"UnlearnDiffAtk: {every}; random tokens: {every}, weapons (0)"
    assert "3 of 4" in row(plain_table(shown(*ESD, *uce)).text, "ESD-x")
    _, rows = summary_rows(shown(*ESD, *uce))
    assert [one[2] for one in rows] == ["16/40", "10/40"]


def test_a_row_without_any_figure_takes_nothing_from_the_others() -> None:
    table = typed_table(shown(*ESD, cell_record("uce", "church", 1, attacks={})))
    assert row(table.text, "ESD-x").startswith("| ESD-x | 30/60")
    assert row(table.text, "UCE") == "| UCE | – | – | – |"


def test_a_row_that_has_just_begun_stands_aside_and_is_named() -> None:
    """One training of UCE would leave a third of what ESD-x has; two of the three would not be too few."""
    luck = {UDA: 8, "random_tokens": 2}
    table = typed_table(shown(*ESD, cell_record("uce", "church", 1, attacks=luck)))
    assert row(table.text, "ESD-x").startswith("| ESD-x | 30/60")
    assert row(table.text, "UCE") == "| UCE | – | – | – |"
    every = "the trainings (seeds) that every row has: church (0, 1), weapons (0)"
    assert table.over == f"{every}, without UCE, begun only"
    _, rows = summary_rows(shown(*ESD, cell_record("uce", "church", 1, attacks=luck)))
    assert [one[2] for one in rows] == ["–", "30/60"]


def test_a_row_that_has_just_begun_says_nothing_of_its_costs() -> None:
    table = cost_table(shown(*ESD, cell_record("uce", "church", 1, attacks={UDA: 8})))
    assert set(row(table.text, "UCE").split("|")[2:-1]) == {" – "}


def test_rows_without_a_training_in_common_keep_their_own() -> None:
    table = typed_table(shown(ESD[0], cell_record("uce", "weapons", 1, attacks={UDA: 8})))
    assert row(table.text, "ESD-x").startswith("| ESD-x | 4/20")
    assert row(table.text, "UCE").startswith("| UCE | 8/20")
    assert "no training is common to all rows" in table.over


def test_what_is_whole_names_no_trainings() -> None:
    cells = [cell_record("esd", concept, seed) for concept in CONCEPTS for seed in (0, 1)]
    assert plain_table(shown(*cells)).over == ALL


def test_seeds_are_set_side_by_side_over_the_same_concepts() -> None:
    assert row(cost_table(shown(*ESD)).text, "ESD-x").endswith("| 20 %, 30 % |")


def test_a_row_whose_concept_is_still_there_is_marked_beside_its_figures() -> None:
    sets = cell_record("esd").sets
    still = (sets[0].model_copy(update={"erased": 5}), *sets[1:])
    cells = [*ESD[:2], ESD[2].model_copy(update={"sets": still})]
    assert row(typed_table(shown(*cells)).text, "ESD-x").startswith("| ESD-x † | 30/60")
    assert "| not erased |" in plain_table(shown(*cells)).text
