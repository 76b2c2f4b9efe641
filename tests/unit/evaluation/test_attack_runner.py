"""Attacks inside an evaluation, on the tiny pipeline with judges that the test scripts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.console import Console
from torch import Tensor

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.attacks.random_tokens import RandomTokensConfig
from diffusers_erasure.attacks.seed_search import SeedSearchConfig
from diffusers_erasure.attacks.unlearndiffatk import UnlearnDiffAtkConfig
from diffusers_erasure.errors import ErasureNotActiveError, EvaluationError
from diffusers_erasure.evaluation import asking, runner, weak_search
from diffusers_erasure.evaluation.attack_groups import attack_groups
from diffusers_erasure.evaluation.attack_rows import Budgeted, count_run
from diffusers_erasure.evaluation.attack_runner import Arena
from diffusers_erasure.evaluation.attack_settings import AttackSettings
from diffusers_erasure.evaluation.curves import share_curve
from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
from diffusers_erasure.evaluation.generate import Sampling, draw
from diffusers_erasure.evaluation.judges import Panel, Verdicts
from diffusers_erasure.evaluation.positive_control import WEAK_SCALES
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
from diffusers_erasure.evaluation.weak_search import find_weak, smallest
from tests.constant_judge import constant_panel
from tests.unit.evaluation import counted_runs

ATTACKS = AttackSettings(
    attacks=("random_tokens",), configs={"random_tokens": RandomTokensConfig(images=2)}, factors=(1, 2)
)
SETTINGS = EvaluationSettings(n=3, sampling=Sampling(2, 4.0), batch_size=4, attacks=ATTACKS)


@pytest.fixture
def evaluate(
    tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Evaluation]:
    def run(answer: str = "church", **arguments: Any) -> Evaluation:
        monkeypatch.setattr(asking, "load_panel", lambda *_, **__: constant_panel(answer))
        return evaluate_artifact(tiny_artifact, **{"output_dir": tmp_path, "settings": SETTINGS, **arguments})

    return run


def test_attacks_enter_the_report(evaluate: Callable[..., Evaluation], tmp_path: Path) -> None:
    """A judge that sees a church everywhere: every prompt counts, and no eraser hides any."""
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
    assert one.base_control.state_before != "verified"
    assert (section.weak.scale, section.weak.hidden, one.weak_control) == (0.95, 0, "not measured")
    assert one.control_fault == "no weak eraser hides 10 of the prompts"
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
    for expected in (
        "worst case over all attacks: 3/3",
        "random_tokens",
        "no weak eraser hides 10",
        "reactivation",
    ):
        assert expected in printed


class Plain:
    """Prompts on the tiny pipeline, and a judge that knows their pictures before and after the erasure.

    It sees a church in what is nearer to the picture before than half of the way, so that about half of the
    strength hides it, and in pictures of other seeds. What has the seed, but is neither, luck may bring back
    or not.
    """

    def __init__(
        self, pipe: StableDiffusionPipeline, artifact: Artifact, *, lucky: bool = False, n: int = 12
    ) -> None:
        erased = sibling(pipe)
        runner.load_erasure(erased, artifact)
        self.subject = Subject(pipe, erased, artifact, "base")
        self.plan = embedded_prompt_plan(artifact.manifest.concepts, n=n)
        own, self.sampling = self.plan.sets[0], Sampling(2, 4.0)
        self.before, self.after = (
            draw(one, own.prompts, own.seeds, sampling=self.sampling).images.double()
            for one in (pipe, erased)
        )
        self.half_way = 0.5 * (self.before - self.after).flatten(1).norm(dim=1)
        others = (self.before[:, None] - self.before[None]).flatten(2).norm(dim=2)
        self.far = 0.5 * others[others > 0].min()
        self.lucky = lucky

    def panel(self) -> Panel:
        """The judges."""
        panel = constant_panel()
        for judge in (panel.concept, panel.second):
            judge.judge = self.judging(judge.labels)  # type: ignore[method-assign, union-attr]
        return panel

    def judging(self, labels: tuple[str, ...]) -> Callable[[Tensor], Verdicts]:
        """Answers in terms of a judge's labels."""

        def judge(images: Tensor) -> Verdicts:
            to_before, to_after = (
                (images[:, None].double() - known[None]).flatten(2).norm(dim=2)
                for known in (self.before, self.after)
            )
            shows = (to_before < self.half_way).any(dim=1) | (to_before > self.far).all(dim=1)
            if self.lucky:
                shows = ~(to_after <= self.half_way).any(dim=1)
            index = torch.where(shows, labels.index("church"), labels.index("none"))
            return Verdicts(labels, torch.nn.functional.one_hot(index, len(labels)).float(), 0.5)

        return judge


SEARCHES = AttackSettings(
    attacks=("seed_search", "unlearndiffatk"),
    configs={
        "seed_search": SeedSearchConfig(images=2),
        "unlearndiffatk": UnlearnDiffAtkConfig(timesteps=1, iterations=2),
    },
    factors=(1,),
)


def test_the_weak_eraser_hides_plain_prompts_and_the_attack_must_search(
    tiny_artifact: Artifact, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """Other seeds look otherwise, so they win; a search that stays at the seed finds hardly any."""
    known = Plain(tiny_pipe, tiny_artifact)
    section = evaluate_pipelines(
        known.subject,
        plan=known.plan,
        panel=known.panel(),
        output_dir=tmp_path,
        settings=replace(SETTINGS, n=12, attacks=SEARCHES),
    ).report.attacks
    assert not isinstance(section, str)
    weak = section.weak
    assert 0.3 <= weak.scale <= 0.8
    assert weak.plain.rate <= 0.2
    assert all(shown > 0.2 * 12 for scale, shown in weak.tried.items() if scale < weak.scale)
    assert weak.luck[weak.scale] <= 0.5 * weak.hidden
    for one in section.attacks:
        control = one.weak_control
        assert not isinstance(control, str)
        assert control.state_before == "verified"
        assert (control.asr.n, control.pre_attack.k) == (weak.hidden, 0)
        assert control.steps >= weak.hidden >= 10
    seeds, search = section.attacks
    assert (seeds.controlled, seeds.weak_luck) == (True, "not measured")
    assert "of the prompts hidden by a weak eraser" in search.control_fault
    assert section.verdict is Verdict.HARNESS_INVALID
    assert not isinstance(search.weak_luck, str)
    assert not isinstance(search.weak_control, str)
    assert search.weak_luck.prompts_sha256 == search.weak_control.prompts_sha256
    assert search.weak_luck.judged_images == search.weak_control.judged_images
    lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    there = [line for line in lines if line["pipeline"] == "weak eraser"]
    assert len(there) == 12 + 3 * weak.hidden


def test_an_eraser_that_luck_defeats_is_too_weak(
    tiny_artifact: Artifact, tiny_pipe: StableDiffusionPipeline
) -> None:
    known = Plain(tiny_pipe, tiny_artifact, lucky=True)
    groups = attack_groups(known.plan.sets[0], known.panel())
    arena = Arena({}, tiny_artifact, groups, known.sampling)
    found = find_weak(known.subject, arena, SEARCHES).record
    assert found.scale == 0.95
    assert any(shown <= 0.2 * 12 for scale, shown in found.tried.items() if scale < 0.95)
    assert all(lucky > 0.5 * (12 - found.tried[scale]) for scale, lucky in found.luck.items())
    luck_alone = replace(SEARCHES, attacks=("seed_search",))
    assert find_weak(known.subject, arena, luck_alone).record.scale < 0.9


def test_luck_is_not_tried_where_too_few_are_hidden_for_a_control(
    tiny_artifact: Artifact, tiny_pipe: StableDiffusionPipeline
) -> None:
    known = Plain(tiny_pipe, tiny_artifact, lucky=True, n=4)
    arena = Arena({}, tiny_artifact, attack_groups(known.plan.sets[0], known.panel()), known.sampling)
    found = find_weak(known.subject, arena, SEARCHES)
    assert (found.record.luck, found.arena) == ({}, None)
    assert found.record.plain.rate <= 0.2


def test_a_prompt_that_failed_is_not_hidden(
    tiny_artifact: Artifact, tiny_pipe: StableDiffusionPipeline
) -> None:
    known = Plain(tiny_pipe, tiny_artifact, n=4)
    arena = Arena({}, tiny_artifact, attack_groups(known.plan.sets[0], known.panel()), known.sampling)
    items = [item for group in arena.groups for item in group.items]
    broken, shown, *others = items
    outcomes = [
        counted_runs.outcome(broken, failed="out of memory"),
        counted_runs.outcome(shown, success=True, success_at=1),
        *map(counted_runs.outcome, others),
    ]
    chosen = Budgeted(counted_runs.spec(), counted_runs.ThreePictures(), 1, "erased", counted_runs.DIGEST)
    left = weak_search._hidden(arena, count_run(chosen, items, outcomes))
    assert [item for group in left.groups for item in group.items] == others


def test_the_smallest_strength_is_found_by_halving() -> None:
    tried: list[float] = []

    def hides(scale: float) -> bool:
        tried.append(scale)
        return scale >= 0.3

    assert smallest(WEAK_SCALES, hides) == 0.3
    assert len(tried) <= 5
    assert smallest(WEAK_SCALES, lambda _: True) == WEAK_SCALES[0] == 0.05
    assert smallest(WEAK_SCALES, lambda _: False) == WEAK_SCALES[-1] == 0.95


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
