"""One evaluation from artifact to report, on the tiny pipeline with judges that the test scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.errors import ConfigError, ErasureNotActiveError, EvaluationError
from diffusers_erasure.evaluation import asking, runner
from diffusers_erasure.evaluation.confusion import Source
from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
from diffusers_erasure.evaluation.generate import Sampling
from diffusers_erasure.evaluation.judges import Panel
from diffusers_erasure.evaluation.metrics import Extractor
from diffusers_erasure.evaluation.prompt_plan_file import PlanFile
from diffusers_erasure.evaluation.prompt_sets import PromptPlan
from diffusers_erasure.evaluation.report import Verdict, read_report
from diffusers_erasure.evaluation.runner import (
    EvaluationSettings,
    Subject,
    evaluate_artifact,
    evaluate_pipelines,
    sibling,
)
from tests.constant_judge import ConstantJudge, constant_panel

SETTINGS = EvaluationSettings(n=2, sampling=Sampling(2, 4.0), batch_size=2)


@pytest.fixture
def panel() -> Panel:
    return constant_panel()


@pytest.fixture
def evaluate(
    tiny_artifact: Artifact, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., runner.Evaluation]:
    monkeypatch.setattr(asking, "load_panel", lambda *_, **__: panel)

    def run(source: Any = tiny_artifact, **arguments: Any) -> runner.Evaluation:
        return evaluate_artifact(source, **{"output_dir": tmp_path, "settings": SETTINGS, **arguments})

    return run


def test_report_and_grid_are_written(
    evaluate: Callable[..., runner.Evaluation], tiny_artifact: Artifact
) -> None:
    found = evaluate()
    report = read_report(found.folder / "evaluation.json")
    assert report == found.report
    assert report.erasure.digest == tiny_artifact.digest
    assert (report.erasure.state_before, report.erasure.state_after) == ("verified", "verified")
    assert not report.erasure.transfer
    assert [row.name for row in report.rows] == [
        "own name", "synonyms", "implicit", "neighbours", "other concepts", "styles"
    ]  # fmt: skip
    assert {row.base.n for row in report.rows} == {2}
    assert (report.settings.steps, report.settings.picture_size) == (2, (16, 16))
    assert set(report.not_measured) == {"fidelity"}
    assert report.not_measured["fidelity"].startswith("the judge 'concepts' offers no features of pictures;")
    assert report.attacks == "not measured"
    with Image.open(found.folder / "grid.png") as grid:
        assert grid.width > 6 * 128


def test_the_erased_pipeline_is_the_one_that_is_drawn(evaluate: Callable[..., runner.Evaluation]) -> None:
    first = evaluate().measured[0]
    assert not torch.equal(first.base, first.erased)


def test_fidelity_comes_from_the_pictures_that_are_there(evaluate: Callable[..., runner.Evaluation]) -> None:
    """8 pictures of each set are too few, 24 of all that should stay are enough; nothing more is drawn."""
    colours = Extractor("colours", "0" * 64, lambda images: images.double().mean(dim=(2, 3)))
    settings = replace(SETTINGS, n=8, extractor=colours)
    found = evaluate(settings=settings)
    assert not isinstance(found.report.fidelity, str)
    (row,) = found.report.fidelity.rows
    assert (row.name, row.pictures, found.report.fidelity.extractor) == ("all of these", 24, "colours")
    assert row.agreement.value < 1
    assert found.report.not_measured == {}
    assert len(list((found.folder / "pictures").iterdir())) == 2 * 6 * 8
    assert read_report(found.folder / "evaluation.json") == found.report


def test_a_report_says_which_rules_were_not_satisfied(evaluate: Callable[..., runner.Evaluation]) -> None:
    rules = evaluate().report.rules
    assert not isinstance(rules, str)
    assert {check.rule: check.satisfied for check in rules} == {
        "the judge sees the concept on the base": True,
        "each attack reaches 95 % on the base and wins against a weak eraser": "not measured",
        "an attack goes through each place that the erasure edits": "not measured",
        "3 generation seeds of every prompt": False,
        "3 training seeds": False,
    }


def test_a_saved_artifact_is_evaluated_the_same(
    evaluate: Callable[..., runner.Evaluation], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    folder = save_artifact(tiny_artifact, tmp_path / "artifact")
    assert evaluate(folder).report.rows == evaluate().report.rows


def test_prompt_sets_of_a_users_own_are_measured(
    evaluate: Callable[..., runner.Evaluation], panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another judge answers for what should stay, and its pictures show how often the first one is wrong."""
    file = tmp_path / "sets.csv"
    file.write_text(
        "set,prompt,label,seed\nown name,a church on a hill,,\nown name,an old church,,\n"
        "synonyms,a chapel in the fog,church,5\nother concepts,a harbour in rain,harbour,\n"
    )
    other = ConstantJudge("others", ("harbour", "kite"), "kite")
    panels = {"theirs": panel, "clip:x/y": Panel(other)}
    monkeypatch.setattr(asking, "load_panel", lambda family, **_: panels[family])
    settings = replace(SETTINGS, n=None, prompts=PlanFile.read(file), retention_judge="clip:x/y")
    report = evaluate(judge="theirs", settings=settings).report
    assert {row.name: (row.judge, row.base.k, row.base.n) for row in report.rows} == {
        "own name": ("concepts", 2, 2), "synonyms": ("concepts", 1, 1), "other concepts": ("others", 0, 1),
    }  # fmt: skip
    assert [judge.name for judge in report.judges] == ["concepts", "seconds", "styles", "others"]
    assert report.not_measured["implicit"] == "sets.csv has no such prompts"
    assert (report.settings.pictures_per_set, report.settings.prompt_file) == (2, "sets.csv")
    assert "embedded pipeline" not in report.scope
    assert not isinstance(report.validation, str)
    first = report.validation[0]
    on_base, on_erased = first.of(Source.BASE), first.of(Source.ERASED)
    assert on_base is not None
    assert on_erased is not None
    assert (first.judge, on_base.positives, on_base.negatives) == ("concepts", 2, 1)
    assert (on_erased.positives, on_erased.negatives) == (0, 1)


def test_prompts_that_were_trained_on_are_refused_before_the_base_is_loaded(
    evaluate: Callable[..., runner.Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sets.csv"
    file.write_text("set,prompt\nown name,a drawing of a church\n")
    monkeypatch.setattr(runner, "training_prompts", lambda *_: ("a drawing of a church",))
    monkeypatch.setattr(runner, "load_base_pipeline", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(EvaluationError, match="a drawing of a church"):
        evaluate(settings=replace(SETTINGS, prompts=PlanFile.read(file)))


def test_settings_that_a_plan_would_leave_unused_are_refused(
    tiny_artifact: Artifact, panel: Panel, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "sets.csv"
    file.write_text("set,prompt\nown name,an old church\n")
    plan = embedded_prompt_plan(tiny_artifact.manifest.concepts, n=2, first_seed=0)
    subject = Subject(tiny_pipe, sibling(tiny_pipe), tiny_artifact, "tiny")
    for beside in ({"prompts": PlanFile.read(file)}, {"retention_judge": "clip:x/y"}):
        with pytest.raises(ConfigError, match="beside a plan and a panel"):
            evaluate_pipelines(
                subject, plan=plan, panel=panel, output_dir=tmp_path, settings=replace(SETTINGS, **beside)
            )


def test_an_interrupted_evaluation_resumes_and_leaves_no_report_before(
    evaluate: Callable[..., runner.Evaluation], tmp_path: Path
) -> None:
    drawn: list[str] = []

    def stop(name: str, done: int, total: int) -> None:
        drawn.append(name)
        if name == "synonyms" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(progress=stop)
    assert not (tmp_path / "evaluation.json").exists()
    kept = set((tmp_path / "pictures").iterdir())
    assert len(kept) == 6
    told: dict[str, list[int]] = {}
    evaluate(progress=lambda name, done, _: told.setdefault(name, []).append(done))
    assert told["own name"] == [2, 4]
    assert kept < set((tmp_path / "pictures").iterdir())


def test_an_erasure_that_is_not_active_gives_no_report(
    tiny_artifact: Artifact, panel: Panel, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    plan = embedded_prompt_plan(tiny_artifact.manifest.concepts, n=2)
    with pytest.raises(ErasureNotActiveError):
        evaluate_pipelines(
            Subject(tiny_pipe, tiny_pipe, tiny_artifact, "base"),
            plan=plan,
            panel=panel,
            output_dir=tmp_path,
            settings=SETTINGS,
        )
    assert not list(tmp_path.iterdir())


def test_an_erasure_that_is_lost_meanwhile_gives_no_report(
    tiny_artifact: Artifact, panel: Panel, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    erased = sibling(tiny_pipe)
    runner.load_erasure(erased, tiny_artifact)

    def lose(name: str, done: int, total: int) -> None:
        if name == "styles" and done == total:
            with torch.no_grad():
                erased.unet.conv_in.weight.add_(1)

    with pytest.raises(ErasureNotActiveError):
        evaluate_pipelines(
            Subject(tiny_pipe, erased, tiny_artifact, "base"),
            plan=embedded_prompt_plan(tiny_artifact.manifest.concepts, n=2),
            panel=panel,
            output_dir=tmp_path,
            settings=SETTINGS,
            progress=lose,
        )
    assert not (tmp_path / "evaluation.json").exists()


def measured(subject: Subject, panel: Panel, folder: Path) -> runner.Evaluation:
    return evaluate_pipelines(
        subject,
        plan=embedded_prompt_plan(subject.artifact.manifest.concepts, n=2),
        panel=panel,
        output_dir=folder,
        settings=SETTINGS,
    )


def test_weights_that_are_nan_are_reported_as_broken(
    tiny_artifact: Artifact, panel: Panel, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """The edited UNet is as it should be, but the autoencoder, which no erasure edits, gives NaN."""
    erased = sibling(tiny_pipe)
    runner.load_erasure(erased, tiny_artifact)
    vae = type(tiny_pipe.vae).from_config(tiny_pipe.vae.config)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.fill_(float("nan"))
    erased.register_modules(vae=vae)
    found = measured(Subject(tiny_pipe, erased, tiny_artifact, "base"), panel, tmp_path)
    assert found.report.verdict is Verdict.BROKEN
    assert found.report.row("own name").erased.k == 2
    assert found.report.row("neighbours").erased.k == 0


@pytest.mark.parametrize("failing", ["every set", "one set"])
def test_sets_that_fail_altogether_are_reported_as_broken(
    tiny_artifact: Artifact, panel: Panel, tiny_pipe: StableDiffusionPipeline, tmp_path: Path, failing: str
) -> None:
    """Pictures that were never drawn have no size, and are no pictures without the concept."""
    erased = sibling(tiny_pipe)
    runner.load_erasure(erased, tiny_artifact)
    calls: list[int] = []

    class Fails(type(erased)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if failing == "every set" or len(calls) == 4:
                raise RuntimeError("CUDA out of memory")
            return super().__call__(*args, **kwargs)

    erased.__class__ = Fails
    found = measured(Subject(tiny_pipe, erased, tiny_artifact, "base"), panel, tmp_path)
    broken = [row for row in found.report.rows if row.verdict is Verdict.BROKEN]
    assert found.report.verdict is Verdict.BROKEN
    assert len(broken) == (len(found.report.rows) if failing == "every set" else 1)
    assert all(row.erased_pictures.failed == 2 for row in broken)


@pytest.mark.parametrize("seed", [-5, 99999999999999999999])
def test_a_seed_that_seeds_nothing_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"first_seed is {seed}; expected 0 or more"):
        EvaluationSettings(first_seed=seed)


@pytest.mark.parametrize(("steps", "scale"), [(0, 4.0), (-1, 4.0), (1001, 4.0), (3, float("nan"))])
def test_sampling_that_draws_nothing_is_refused(steps: int, scale: float) -> None:
    with pytest.raises(ConfigError, match=f"{steps} sampling steps at guidance scale {scale} draw nothing"):
        Sampling(steps, scale)


def test_the_own_name_comes_first(
    tiny_artifact: Artifact, panel: Panel, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    erased = sibling(tiny_pipe)
    runner.load_erasure(erased, tiny_artifact)
    plan = PromptPlan(embedded_prompt_plan(tiny_artifact.manifest.concepts, n=2).sets[1:], {})
    with pytest.raises(EvaluationError, match="first prompt set is 'synonyms'; expected 'own name'"):
        evaluate_pipelines(
            Subject(tiny_pipe, erased, tiny_artifact, "base"), plan=plan, panel=panel, output_dir=tmp_path
        )


def test_a_sibling_shares_components_and_leaves_the_first_alone(
    tiny_artifact: Artifact, tiny_pipe: StableDiffusionPipeline
) -> None:
    unet = tiny_pipe.unet
    erased = sibling(tiny_pipe)
    assert erased.unet is unet
    runner.load_erasure(erased, tiny_artifact)
    assert tiny_pipe.unet is unet
    assert erased.unet is not unet
