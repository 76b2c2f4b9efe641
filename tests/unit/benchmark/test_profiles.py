"""The grid: commands that exist, folders that profiles share, and claims that it can settle."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from diffusers_erasure.attacks import attacks
from diffusers_erasure.benchmark.cells import Cell, cells, check_work_folder
from diffusers_erasure.benchmark.checks import NAMES, Check
from diffusers_erasure.benchmark.claims import CLAIMS, Claim
from diffusers_erasure.benchmark.profiles import ATTACKS, CONCEPTS, LUCK, PROFILES, profile
from diffusers_erasure.benchmark.variants import BY_SLUG, EVERY, METHODS
from diffusers_erasure.cli.train import parse
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.attack_settings import preset_config
from diffusers_erasure.training.config import TrainingConfig
from diffusers_erasure.training.registry import method

WORK = Path("work")


def commands(cell: Cell) -> dict[str, str]:
    return {step.name: shlex.join(step.command) for step in cell.steps()}


@pytest.mark.parametrize("slug", BY_SLUG)
def test_every_training_is_a_valid_command(slug: str) -> None:
    for concept in ("santa claus", *BY_SLUG[slug].by_concept):
        command = next(Cell(BY_SLUG[slug], concept, 1, WORK, ATTACKS, 34).steps()).command
        assert command[0] == "train"
        config = parse(method(command[1]), command[2:])
        assert isinstance(config, TrainingConfig)
        assert (config.concept, config.seed) == ((concept,), 1)


def test_no_two_variants_are_the_same() -> None:
    assert len({one.slug for one in EVERY}) == len({one.label for one in EVERY}) == len(EVERY)
    for concept in CONCEPTS:
        assert len({tuple(one.arguments(concept, 0)) for one in EVERY}) == len(EVERY)
    assert all(one.slug.isascii() and not one.slug.startswith("-") for one in EVERY)


def test_the_full_grid_is_every_method_concept_attack_and_seed() -> None:
    full = profile("full")
    assert {one.method for one in METHODS} == {"uce", "esd", "advunlearn", "trce", "aegis"}
    assert (len(full.variants), full.concepts, full.seeds) == (11, CONCEPTS, (0, 1, 2))
    assert set(full.attacks) == set(attacks()) - {"no_attack", "replay"}
    assert len(cells(full, WORK)) == 11 * 5 * 3
    kinds = {concept.kind.value for name in CONCEPTS for concept in resolve_concepts([name])}
    assert kinds >= {"object", "style", "theme"}


def test_profiles_share_the_cells_that_they_have_in_common() -> None:
    folders = {name: {cell.folder for cell in cells(one, WORK)} for name, one in PROFILES.items()}
    assert folders["advunlearn"] < folders["full"]
    assert folders["trce"] < folders["full"]
    assert folders["aegis"] < folders["full"]
    by_folder: dict[Path, dict[str, str]] = {}
    for name in set(PROFILES) - {"short"}:
        for cell in cells(profile(name), WORK):
            known = by_folder.setdefault(cell.folder, {})
            said = commands(cell)
            assert all(said[step] == command for step, command in known.items() if step in said)
            known.update(said)
    assert PROFILES["short"].folder not in {one.folder for one in PROFILES.values() if one.name != "short"}


def test_a_cell_is_what_was_run_before_there_was_this_room() -> None:
    """Folders and commands of runs that are finished, word by word."""
    (cell,) = cells(profile("advunlearn"), WORK, concepts=["ink"], seeds=[1], methods=["fast-at"])
    here = "work/ink/fast-at-1"
    drawn = "--n 34 --first_seed 900010000"
    said = commands(cell)
    assert said["train"] == (
        "train advunlearn --concept ink --seed 1 --attack_steps 1 --attack_rule sign "
        "--attack_learning_rate 1e-2 --negative_guidance 2 --num_templates None "
        "--attack_learning_rate 5e-3 --max_train_steps 600 --retain_set styles --retain_weight 4 "
        f"--output_dir {here}/artifact --retain_bank work/retain-bank-styles"
    )
    assert said["evaluate"] == (
        f"evaluate {here}/artifact {drawn} --cache_dir work/ink/base-pictures --output_dir {here}/evaluation"
    )
    attack = f"attack {here}/artifact {drawn} --batch_size 34 --attack"
    assert said["unlearndiffatk"] == f"{attack} unlearndiffatk --output_dir {here}/unlearndiffatk"
    assert said["random_tokens"] == f"{attack} random_tokens --images 11 --output_dir {here}/random_tokens"
    assert {step.name: step.done.name for step in cell.steps()} == {
        "train": "erasure_config.json",
        "evaluate": "evaluation.json",
        "unlearndiffatk": "attack.json",
        "random_tokens": "attack.json",
    }


def test_only_some_attacks_are_run_in_the_order_of_the_profile() -> None:
    chosen = profile("full")
    asked = ["soft_prompt", "unlearndiffatk"]
    (cell,) = cells(chosen, WORK, concepts=["dog"], seeds=[0], methods=["uce"], attacks=asked)
    (whole,) = cells(chosen, WORK, concepts=["dog"], seeds=[0], methods=["uce"])
    assert list(commands(cell)) == ["train", "evaluate", "unlearndiffatk", "soft_prompt"]
    assert commands(cell).items() <= commands(whole).items()


def test_luck_may_show_as_many_pictures_as_any_attack() -> None:
    """Luck is cut to the attack beside it, so it must never have had fewer."""
    shown = {name: preset_config(attacks()[name], "quick").judged_images for name in ATTACKS}
    assert min(shown[name] for name in LUCK) == max(shown.values())
    assert set(NAMES) >= set(ATTACKS)


def test_training_seeds_share_no_picture() -> None:
    firsts = {}
    for cell in cells(profile("full"), WORK, concepts=["dog"], methods=["uce"]):
        command = next(step.command for step in cell.steps() if step.name == "evaluate")
        firsts[cell.seed] = int(command[command.index("--first_seed") + 1])
    assert min(firsts[1] - firsts[0], firsts[2] - firsts[1]) > 34


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_every_claim_can_be_settled_by_a_cell_of_the_page(claim: Claim) -> None:
    full = profile("full")
    shown = [full, *(profile(name) for name in full.sections)]
    for check in claim.checks:
        tried = attacks_of(check)
        for slug in variants_of(check):
            for concept in claim.concepts:
                assert any(
                    slug in {one.slug for one in each.variants}
                    and concept in each.concepts
                    and set(tried) <= set(each.attacks)
                    for each in shown
                ), f"{claim.key}: no cell of {slug} on {concept} with {tried}"
        assert len(check.rule) > 20


def variants_of(check: Check) -> list[str]:
    names = (getattr(check, field, None) for field in ("first", "second", "variant"))
    return [name for name in names if name is not None]


def attacks_of(check: Check) -> list[str]:
    single = [getattr(check, field) for field in ("attack", "other", "luck") if hasattr(check, field)]
    return [*getattr(check, "attacks", ()), *single]


def test_what_a_profile_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="no concept 'cat'; expected some of church"):
        cells(profile("short"), WORK, concepts=["cat"])
    with pytest.raises(ConfigError, match="no profile 'all'; expected one of full"):
        profile("all")


def test_a_folder_holds_cells_of_one_number_of_prompts(tmp_path: Path) -> None:
    check_work_folder(tmp_path, 34)
    check_work_folder(tmp_path, 34)
    with pytest.raises(ConfigError, match="cells of 34 prompts; expected 8"):
        check_work_folder(tmp_path, 8)
