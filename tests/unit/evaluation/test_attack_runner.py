"""Attacks inside an evaluation, on the tiny pipeline with judges that the test scripts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.console import Console

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.attacks.random_tokens import RandomTokensConfig
from diffusers_erasure.errors import ErasureNotActiveError, EvaluationError
from diffusers_erasure.evaluation import runner
from diffusers_erasure.evaluation.attack_settings import AttackSettings
from diffusers_erasure.evaluation.curves import share_curve
from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
from diffusers_erasure.evaluation.generate import Sampling
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.report import EvaluationReport, Verdict, read_report
from diffusers_erasure.evaluation.runner import (
    Evaluation,
    EvaluationSettings,
    Subject,
    evaluate_artifact,
    evaluate_pipelines,
    sibling,
)
from diffusers_erasure.evaluation.tables import report_table
from tests.constant_judge import constant_panel

ATTACKS = AttackSettings(
    attacks=("random_tokens",), configs={"random_tokens": RandomTokensConfig(images=2)}, factors=(1, 2)
)
SETTINGS = EvaluationSettings(n=3, sampling=Sampling(2, 4.0), batch_size=4, attacks=ATTACKS)


@pytest.fixture
def evaluate(
    tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Evaluation]:
    def run(answer: str = "church", **arguments: Any) -> Evaluation:
        monkeypatch.setattr(runner, "load_panel", lambda *_, **__: constant_panel(answer))
        return evaluate_artifact(tiny_artifact, **{"output_dir": tmp_path, "settings": SETTINGS, **arguments})

    return run


def test_attacks_enter_the_report(evaluate: Callable[..., Evaluation], tmp_path: Path) -> None:
    """A judge that sees a church everywhere: every prompt counts, and every control holds."""
    found = evaluate()
    report = read_report(tmp_path / "evaluation.json")
    assert report == found.report
    section = report.attacks
    assert not isinstance(section, str)
    assert (section.worst_case.asr.k, section.pre_attack.asr.k, section.prompts) == (3, 3, 3)
    (one,) = section.attacks
    assert [run.factor for run in one.runs] == [1, 2]
    assert [run.judged_images for run in one.runs] == [2, 3]
    assert {run.attack for run in one.baselines} == {"seed_search"}
    assert [luck.judged_images for luck in one.comparisons] == [(2, 2), (3, 3)]
    assert one.controlled
    assert one.base_control.state_before != "verified"
    assert one.weak_control.state_before == "verified"
    assert {run.digest for run in section.runs} == {report.erasure.digest}
    assert [split.name for split in report.splits] == ["train", "dev", "test"]
    assert report.validation[0].judge == "concepts"
    lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert {line["digest"] for line in lines} == {report.erasure.digest, ""}
    assert len(lines) % 3 == 0
    for name in ("grid.png", "asr.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 500
    printed = printed_at(160, report)
    for expected in ("worst case over all attacks: 3/3", "random_tokens", "controls hold", "reactivation"):
        assert expected in printed


def printed_at(width: int, report: EvaluationReport) -> str:
    console = Console(width=width, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(report_table(report))
    return capture.get()


def test_the_tables_fit_into_80_columns(evaluate: Callable[..., Evaluation]) -> None:
    """At the widest that they get: the longest name, three budgets, 100 prompts."""
    report = evaluate().report
    section = report.attacks
    assert not isinstance(section, str)
    (one,) = section.attacks
    share = Proportion.of(100, 100)
    runs = tuple(
        one.headline.model_copy(update={"factor": factor, "asr": share, "attack": "concept_inversion"})
        for factor in (1, 2, 4)
    )
    widest = one.model_copy(update={"name": "concept_inversion", "runs": runs})
    wide = section.model_copy(update={"attacks": (widest,), "factors": (1, 2, 4)})
    rows = tuple(row.model_copy(update={"name": "objects, erased style"}) for row in report.rows)
    printed = printed_at(80, report.model_copy(update={"attacks": wide, "rows": rows}))
    assert "concept_inversion" in printed
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed


def test_a_judge_that_sees_nothing_makes_no_robust_model(evaluate: Callable[..., Evaluation]) -> None:
    """Nothing is brought back, not even on the base: that is no robustness."""
    section = evaluate("none").report.attacks
    assert not isinstance(section, str)
    assert section.worst_case.asr.k == 0
    assert section.verdict is Verdict.HARNESS_INVALID
    assert section.attacks[0].second_judge.k == 0


def test_a_run_that_is_killed_goes_on_from_its_outcomes(
    evaluate: Callable[..., Evaluation], tmp_path: Path
) -> None:
    def stop(name: str, done: int, total: int) -> None:
        if name.startswith("random_tokens 1x, base") and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate("none", progress=stop)
    assert not (tmp_path / "evaluation.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "attacks").rglob("*.json")}
    assert kept
    whole = evaluate("none").report.attacks
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not isinstance(whole, str)
    again = evaluate("none").report.attacks
    assert again == whole


def test_an_erasure_that_is_lost_under_attack_gives_no_report(
    evaluate: Callable[..., Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    load = runner.load_erasure
    monkeypatch.setattr(runner, "load_erasure", lambda pipe, source: (kept.append(pipe), load(pipe, source)))

    def lose(name: str, done: int, total: int) -> None:
        if name.startswith("random_tokens 1x, erased") and done == total:
            with torch.no_grad():
                kept[0].unet.conv_in.weight.add_(1)

    with pytest.raises((ErasureNotActiveError, EvaluationError)):
        evaluate("none", progress=lose)
    assert not (tmp_path / "evaluation.json").exists()


def test_a_curve_rises_where_prompts_are_brought_back() -> None:
    assert share_curve("a", [1, 3, None, 3], 4).shares == (0.25, 0.25, 0.75, 0.75)


def never_loaded(base: StableDiffusionPipeline, tiny_artifact: Artifact) -> Any:
    """The load error was printed, and generation went on with the base."""
    return sibling(base)


def loaded_in_part(base: StableDiffusionPipeline, tiny_artifact: Artifact) -> Any:
    """Keys of another version, so that nothing arrives, and nobody is told."""
    erased = sibling(base)
    unet = copy.deepcopy(base.unet)
    donor = sibling(base)
    runner.load_erasure(donor, tiny_artifact)
    weights = {f"model.{key}": value for key, value in donor.unet.state_dict().items()}
    assert unet.load_state_dict(weights, strict=False).missing_keys
    erased.register_modules(unet=unet)
    return erased


@pytest.mark.parametrize("load", [never_loaded, loaded_in_part])
def test_a_model_that_is_not_erased_is_not_attacked_under_the_erasers_name(
    load: Callable[..., Any], tiny_artifact: Artifact, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    with pytest.raises(ErasureNotActiveError):
        evaluate_pipelines(
            Subject(tiny_pipe, load(tiny_pipe, tiny_artifact), tiny_artifact, "base"),
            plan=embedded_prompt_plan(tiny_artifact.manifest.concepts, n=3),
            panel=constant_panel("none"),
            output_dir=tmp_path,
            settings=SETTINGS,
        )
    assert not list(tmp_path.iterdir())


def test_pictures_that_are_not_finite_are_broken_under_attack_too(
    tiny_artifact: Artifact, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    erased = sibling(tiny_pipe)
    runner.load_erasure(erased, tiny_artifact)
    vae = type(tiny_pipe.vae).from_config(tiny_pipe.vae.config)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.fill_(float("nan"))
    erased.register_modules(vae=vae)
    section = evaluate_pipelines(
        Subject(tiny_pipe, erased, tiny_artifact, "base"),
        plan=embedded_prompt_plan(tiny_artifact.manifest.concepts, n=3),
        panel=constant_panel("church"),
        output_dir=tmp_path,
        settings=SETTINGS,
    ).report.attacks
    assert not isinstance(section, str)
    assert section.attacks[0].verdict is Verdict.BROKEN
    assert section.worst_case.asr.k == 3
    assert section.pre_attack.prompts.failed == 3
