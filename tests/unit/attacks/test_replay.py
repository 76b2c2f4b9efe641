"""Replay: a file's prompts as items, and as tries in place of other prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_erasure.attacks import AttackedPrompt, attack_named
from diffusers_erasure.attacks.prompt_file import FilePrompt
from diffusers_erasure.attacks.replay import ReplayConfig, file_items, order_of
from diffusers_erasure.errors import ConfigError

ITEM = AttackedPrompt("a dog", 1, "dog")


def test_items_have_the_files_seeds_or_their_place() -> None:
    rows = [FilePrompt("a", 2, seed=7), FilePrompt("b", 3), FilePrompt("c", 5)]
    items = file_items(rows, "dog", first_seed=100)
    assert [(one.prompt, one.seed, one.concept) for one in items] == [
        ("a", 7, "dog"),
        ("b", 101, "dog"),
        ("c", 102, "dog"),
    ]


def test_a_repeated_prompt_and_seed_names_both_rows() -> None:
    rows = [FilePrompt("a", 2, seed=7), FilePrompt("a", 9, seed=7)]
    with pytest.raises(ConfigError, match=r"list\.csv, row 9: .* stands in row 2 already"):
        file_items(rows, "dog", first_seed=0, origin="list.csv")


def test_without_a_file_each_prompt_is_judged_once(make_target: Callable[..., Any]) -> None:
    (outcome,) = attack_named("replay").run([ITEM], make_target(), ReplayConfig())
    assert (outcome.success, outcome.judged, outcome.text) == (False, 1, "a dog")


def test_prompts_of_the_file_are_tried_until_one_succeeds(
    make_target: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("cat\nowl\ncat\nbird\n")
    config = ReplayConfig(prompt_file=path, tries=3)
    calls: list[int] = []

    def third_time(images: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.full((len(images),), len(calls) == 3)

    target = make_target(judge=third_time)
    (outcome,) = attack_named("replay").run([ITEM], target, config)
    order = order_of(["cat", "owl", "cat", "bird"], ITEM, config)
    assert sorted(order) == ["bird", "cat", "owl"]
    assert (outcome.success_at, outcome.judged, outcome.text) == (3, 3, order[1])
    assert outcome.ids == target.own_ids(order[1])
    assert config.judged_images == 4
