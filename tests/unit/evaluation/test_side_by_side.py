"""Several erasures under each other: each row drawn by the pipeline that it names, from the same noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.evaluation import side_by_side as module
from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
from diffusers_erasure.evaluation.generate import Sampling
from diffusers_erasure.evaluation.grid import Column
from diffusers_erasure.evaluation.runner import EvaluationSettings, Subject, evaluate_pipelines, sibling
from diffusers_erasure.evaluation.side_by_side import side_by_side
from tests.constant_judge import constant_panel

SAMPLING = Sampling(2, 4.0)


def test_each_row_is_drawn_by_its_own_erasure(
    tiny_pipe: StableDiffusionPipeline,
    tiny_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers_erasure.artifacts.apply import load_erasure

    erased = sibling(tiny_pipe)
    load_erasure(erased, tiny_artifact)
    found = evaluate_pipelines(
        Subject(tiny_pipe, erased, tiny_artifact, "tiny"),
        plan=embedded_prompt_plan(tiny_artifact.manifest.concepts, n=2),
        panel=constant_panel(),
        output_dir=tmp_path,
        settings=EvaluationSettings(n=2, sampling=SAMPLING, batch_size=4),
    )
    laid_out: list[Column] = []
    labels: list[str] = []
    drawn = module.make_grid

    def remember(columns: list[Column], rows: list[str], **options: object) -> object:
        laid_out.extend(columns)
        labels.extend(rows)
        return drawn(columns, rows, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "make_grid", remember)
    told: list[tuple[str, int, int]] = []
    side_by_side(
        found.measured,
        "one",
        {"the same": tiny_artifact},
        tiny_pipe,
        sampling=SAMPLING,
        title="x",
        progress=lambda *what: told.append(what),
    )
    assert labels == ["before", "one", "the same"]
    assert told[-1] == ("the same", len(laid_out), len(laid_out))
    for column in laid_out:
        before, one, same = column.pictures
        assert not torch.equal(before, one)
        # One grey level: sums of a matrix product are ordered otherwise in another batch.
        assert int((one.int() - same.int()).abs().max()) <= 1
