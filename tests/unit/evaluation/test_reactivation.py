"""What brings a concept back, from artifact to report: every item on the tiny pipeline, one or two steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from diffusers_erasure.artifacts import Artifact, DeltaEdit, WholeEdit, load_erasure
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.attacks.reactivation import FineTuningConfig
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.embedded.vocabulary import CONCEPTS
from diffusers_erasure.errors import ErasureNotActiveError, EvaluationError
from diffusers_erasure.evaluation import reactivation as module
from diffusers_erasure.evaluation import reactivation_draw, reactivation_inversion
from diffusers_erasure.evaluation.attack_file import AttackFile, attack_file
from diffusers_erasure.evaluation.attack_groups import Group, attack_groups
from diffusers_erasure.evaluation.attack_runner import Arena
from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
from diffusers_erasure.evaluation.generate import Artist, Drawings, Sampling
from diffusers_erasure.evaluation.reactivation import Reactivation, ReactivationSettings, reactivate
from diffusers_erasure.evaluation.reactivation_data import data_prompts, draw_tuning_set
from diffusers_erasure.evaluation.reactivation_items import RULE_ITEMS, all_items, choose_items
from diffusers_erasure.evaluation.reactivation_report import read_reactivation
from diffusers_erasure.evaluation.records import Verdict
from diffusers_erasure.evaluation.subject import Subject, sibling
from tests.constant_judge import constant_panel

SAMPLING = Sampling(2, 4.0)
STEPS = (1, 2)
SETTINGS = ReactivationSettings(
    items=choose_items((), STEPS),
    first_seed=900_000_000,
    sampling=SAMPLING,
    fine_tuning=FineTuningConfig(pictures=2, batch_size=2),
)
Run = Callable[..., Reactivation]


@pytest.fixture
def subject(tiny_pipe: StableDiffusionPipeline, tiny_artifact: Artifact) -> Subject:
    return subject_of(tiny_pipe, tiny_artifact)


def subject_of(pipe: Any, artifact: Artifact) -> Subject:
    erased = sibling(pipe)
    load_erasure(erased, artifact)
    return Subject(pipe, erased, artifact, artifact.manifest.base.id)


def groups_of(artifact: Artifact, answer: str = "dog") -> tuple[Group, ...]:
    plan = embedded_prompt_plan(artifact.manifest.concepts, n=2)
    return attack_groups(plan.sets[0], constant_panel(answer))


@pytest.fixture
def run(subject: Subject, tmp_path: Path) -> Run:
    def go(names: tuple[str, ...] = (), *, answer: str = "dog", **arguments: Any) -> Reactivation:
        settings = arguments.pop("settings", replace(SETTINGS, items=choose_items(names, STEPS)))
        return reactivate(
            arguments.pop("subject", subject),
            groups_of(subject.artifact, answer),
            resolve_concepts(["church"]),
            settings=settings,
            output_dir=tmp_path,
            **arguments,
        )

    return go


def prints(subject: Subject) -> list[str]:
    return [
        fingerprint(getattr(pipe, part))
        for pipe in (subject.base, subject.erased)
        for part in ("unet", "text_encoder", "vae")
    ]


def test_every_item_runs_and_leaves_the_caller_alone(run: Run, subject: Subject) -> None:
    before = prints(subject)
    components = dict(subject.erased.components)
    found = run()
    report = read_reactivation(found.folder / "reactivation.json")
    assert report == found.report
    assert [row.key for row in report.rows] == [
        item.key for item in all_items(STEPS) if item.key != "concept-inversion"
    ]
    assert set(report.not_measured) == {item.key for item in RULE_ITEMS} - {row.key for row in report.rows}
    assert {row.state_before for row in report.rows} == {"verified"}
    assert report.erasure.digest == subject.artifact.digest
    assert {row.rate.n for row in report.rows} == {2}
    assert [record.kind for record in report.data] == ["unrelated", "related"]
    assert prints(subject) == before
    assert all(subject.erased.components[name] is part for name, part in components.items())
    with Image.open(found.folder / "reactivation.png") as grid:
        assert grid.width > 5 * 128


def test_what_was_not_measured_is_said(run: Run) -> None:
    report = run(("merge",)).report
    lines = dict(report.lines())
    assert lines["merged with 0.5 of the base"].startswith("0/2")
    assert lines["int8 weights"] == "not measured"
    assert "--with concept-inversion" in report.not_measured["concept-inversion"]
    assert report.verdict is Verdict.HARNESS_INVALID, "the judge sees no church on the base either"
    assert run(("merge",), answer="church").report.verdict is Verdict.MEASURED


def test_half_a_merge_is_the_mean_of_the_weights(
    run: Run, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _drawn(run, ("merge",), monkeypatch)[0].unet.state_dict()
    erased = subject.erased.unet.state_dict()
    for name, weight in subject.base.unet.state_dict().items():
        mean = (weight.double() + erased[name].double()) / 2
        assert torch.allclose(found[name].double(), mean, rtol=1e-6, atol=1e-7), name


def test_a_whole_edit_is_merged_too(
    tiny_pipe: Any, artifact_of: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: weight + torch.randn(weight.shape, generator=generator)
        for name, weight in tiny_pipe.text_encoder.named_parameters()
    }
    subject = subject_of(tiny_pipe, artifact_of({"text_encoder": WholeEdit(weights)}))
    pipe = _drawn(run, ("merge",), monkeypatch, subject=subject)[0]
    base = dict(tiny_pipe.text_encoder.named_parameters())
    for name, weight in pipe.text_encoder.named_parameters():
        mean = (base[name].double() + weights[name].double()) / 2
        assert torch.allclose(weight.double(), mean, rtol=1e-6, atol=1e-6), name


def _drawn(run: Run, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> list[Any]:
    """The pipelines that were drawn with."""
    pipes: list[Any] = []
    draw = module.Stage.draw

    def note(self: Any, pipe: Any, progress: Any = None) -> Drawings:
        pipes.append(pipe)
        return draw(self, pipe, progress)

    monkeypatch.setattr(module.Stage, "draw", note)
    run(names, **arguments)
    return pipes


def test_foreign_states_matter_only_where_the_encoder_is_edited(
    tiny_pipe: Any, artifact_of: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not _drawn(run, ("foreign-embeddings",), monkeypatch), "the rate as it is needs no picture"
    generator = torch.Generator().manual_seed(0)
    deltas = {
        name: torch.randn(weight.shape, generator=generator)
        for name, weight in tiny_pipe.text_encoder.named_parameters()
        if name.endswith("v_proj.weight")
    }
    subject = subject_of(tiny_pipe, artifact_of({"text_encoder": DeltaEdit(deltas)}))
    stage = module.Stage(subject, groups_of(subject.artifact), SAMPLING)
    base, erased = (stage.seen(stage.draw_with(artist)) for artist in (stage.base, stage.erased))
    assert not torch.equal(base.images, erased.images)
    (item,) = choose_items(("foreign-embeddings",))
    found = reactivation_draw.Manipulations(stage, base, erased)(item)
    assert torch.equal(found.seen.images, base.images), "only the encoder was edited"


def test_clip_skip_stands_beside_the_bases_own(run: Run) -> None:
    row = run(("clip-skip",), answer="church").report.row("clip-skip-1")
    assert row is not None
    assert row.base_control is not None
    assert (row.base_control.k, row.base_control.n) == (2, 2)


def test_initial_pictures_are_the_bases(run: Run, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    weak, strong, painted = _drawn(run, ("img2img-0.3", "img2img-0.9", "inpainting"), monkeypatch)
    assert (weak.strength, strong.strength, painted.strength) == (0.3, 0.9, 1.0)
    groups = groups_of(subject.artifact)
    prompts = [item.prompt for item in groups[0].items]
    seeds = [item.seed for item in groups[0].items]
    base = Artist(subject.base, SAMPLING).draw(prompts, seeds)
    for given in (weak, strong, painted):
        assert torch.equal(given.pictures[prompts[1], seeds[1]], base.images[1])
    assert painted.mask.sum() == 12 * 12


def test_weights_that_int8_breaks_are_reported_broken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    private_copy = reactivation_draw.int8_copy

    def broken(part: Any) -> Any:
        copy = private_copy(part)
        with torch.no_grad():
            for weight in copy.parameters():
                weight.fill_(float("nan"))
        return copy

    monkeypatch.setattr(reactivation_draw, "int8_copy", broken)
    row = run(("int8",)).report.row("int8")
    assert row is not None
    assert row.verdict is Verdict.BROKEN
    assert row.found.marks == "FF"
    assert str(row) == "broken (2 of 2 pictures failed)"


def test_a_run_that_is_interrupted_does_nothing_again(run: Run, tmp_path: Path) -> None:
    told: list[str] = []

    def stop(name: str, done: int, _total: int) -> None:
        told.append(name)
        if name == "LoRA fine-tuning, 2 steps, unrelated data" and done:
            raise KeyboardInterrupt

    names = ("merge", "int8", "lora-unrelated")
    with pytest.raises(KeyboardInterrupt):
        run(names, progress=stop)
    assert not (tmp_path / "reactivation.json").exists()
    (state,) = (tmp_path / "items").glob("*.safetensors")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "items").iterdir() if path != state}
    assert {name.rpartition("-")[0] for name in kept} == {"lora-unrelated-1"}
    told.clear()
    trained: list[int] = []

    def watch(name: str, done: int, _total: int) -> None:
        told.append(name)
        if name.endswith("training"):
            trained.append(done)

    found = run(names, progress=watch)
    assert trained == [2]
    assert not state.exists()
    assert "LoRA fine-tuning, 1 steps, unrelated data" not in told
    assert "LoRA fine-tuning, 2 steps, unrelated data" in told
    told.clear()
    again = run(names, progress=lambda name, *_: told.append(name))
    assert again.report.rows == found.report.rows
    assert not {name for name in told if "fine-tuning" in name or "int8" in name or "merged" in name}
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "items").iterdir()}.items() >= (
        kept.items()
    )


def test_fine_tuning_that_hardly_learned_says_so(run: Run) -> None:
    """Two steps at 1e-4 move nothing; a loss that falls is shown without the warning."""
    (idle,) = run(("full-related-1",)).report.rows
    assert "it hardly learned" in idle.note
    config = SETTINGS.fine_tuning.model_copy(update={"learning_rate": 0.01})
    items = choose_items(("full-related-30",), (30,))
    (learned,) = run(settings=replace(SETTINGS, items=items, fine_tuning=config)).report.rows
    assert learned.loss_after < 0.95 * learned.loss_before
    assert not learned.note


def test_other_settings_measure_again(run: Run, tmp_path: Path) -> None:
    run(("lora-related-1",))
    config = SETTINGS.fine_tuning.model_copy(update={"lora_learning_rate": 0.5})
    items = choose_items(("lora-related-1",), STEPS)
    run(settings=replace(SETTINGS, items=items, fine_tuning=config))
    assert len(list((tmp_path / "items").glob("*.json"))) == 2


def test_an_item_that_cannot_be_computed_is_not_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(reactivation_draw, "int8_copy", refuse)
    report = run(("int8", "merge")).report
    assert report.not_measured["int8"] == "no memory"
    assert report.row("merge-0.5") is not None


def test_an_erasure_that_is_not_active_gives_no_report(
    run: Run, tiny_pipe: Any, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(ErasureNotActiveError):
        run(("merge",), subject=Subject(tiny_pipe, tiny_pipe, tiny_artifact, "base"))
    assert not (tmp_path / "reactivation.json").exists()


def test_concept_inversion_is_taken_from_a_report_of_this_artifact(
    run: Run, subject: Subject, tmp_path: Path
) -> None:
    path = tmp_path / "attack.json"
    path.write_text(_attack_report(subject, subject.artifact.digest), encoding="utf-8")
    settings = replace(SETTINGS, items=choose_items(("merge",)), inversion_reports=(path,))
    row = run(settings=settings).report.row("concept-inversion")
    assert row is not None
    assert row.taken_from == "attack.json"
    assert (row.rate.k, row.rate.n) == (0, 2)
    path.write_text(_attack_report(subject, "0" * 64), encoding="utf-8")
    assert run(settings=settings).report.row("concept-inversion") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ("dog",)}, "the labels dog"),
        ({"steps": 99}, "99 steps, not"),
        ({"guidance_scale": 1.5}, "guidance scale 1.5, not"),
        ({"judges": ()}, "another judge"),
    ],
)
def test_concept_inversion_that_was_measured_otherwise_is_passed_over(
    change: dict[str, Any],
    said: str,
    run: Run,
    subject: Subject,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "attack.json"
    report = AttackFile.model_validate_json(_attack_report(subject, subject.artifact.digest))
    path.write_text(report.model_copy(update=change).model_dump_json(), encoding="utf-8")
    settings = replace(SETTINGS, items=choose_items(("merge",)), inversion_reports=(path,))
    assert run(settings=settings).report.row("concept-inversion") is None
    assert f"attack.json is passed over: its concept_inversion was measured with {said}" in caplog.text


def test_concept_inversion_is_run_where_it_was_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"steps": 1, "pictures": 1, "pictures_per_step": 1}
    monkeypatch.setattr(
        reactivation_inversion, "preset_config", lambda spec, _budget: spec.config.parse(small)
    )
    report = run(("concept-inversion", "merge")).report
    assert [row.key for row in report.rows] == ["concept-inversion", "merge-0.5"]
    assert (report.rows[0].taken_from, report.rows[0].rate.n) == ("", 2)
    assert report.rows[0].settings["steps"] == 1


def _attack_report(subject: Subject, digest: str) -> str:
    from diffusers_erasure.attacks import attack_named

    groups = groups_of(subject.artifact)
    pipelines = {"base": subject.base, "erased": subject.erased}
    arena = Arena(pipelines, subject.artifact, groups, SAMPLING)
    spec = attack_named("concept_inversion")
    config = spec.config.parse({"steps": 1, "pictures": 1, "pictures_per_step": 1})
    written = attack_file(
        arena.run(spec, config),
        (),
        concepts=["church"],
        model="base",
        budget="quick",
        questions=[group.question for group in groups],
        sampling=SAMPLING,
    )
    return written.model_copy(
        update={"run": written.run.model_copy(update={"digest": digest})}
    ).model_dump_json()


def test_data_never_speaks_of_the_concept() -> None:
    church = resolve_concepts(["church"])
    related = data_prompts(church, "related", world="embedded")
    unrelated = data_prompts(church, "unrelated", world="embedded")
    buildings = {name for name, entry in CONCEPTS.items() if entry.group == "building"} - {"church"}
    assert all(any(name in prompt for name in buildings) for prompt in related)
    assert not any(f" {name} " in f" {prompt} " for name in buildings for prompt in unrelated)
    for prompt in (*related, *unrelated):
        assert not any(word in prompt for word in church.words)
    without = data_prompts(church, "related", world="embedded", words=("House",))
    assert set(without) < set(related)
    assert not any("house" in prompt.split() for prompt in without)


def test_data_of_a_style_and_of_a_pretrained_model() -> None:
    ink = resolve_concepts(["ink"])
    assert all("style" in prompt for prompt in data_prompts(ink, "related", world="embedded"))
    assert not any("style" in prompt for prompt in data_prompts(ink, "unrelated", world="embedded"))
    dog = resolve_concepts(["dog"])
    assert any("cat" in prompt for prompt in data_prompts(dog, "related", world="general"))
    for kind in ("related", "unrelated"):
        assert not any("dog" in prompt.split() for prompt in data_prompts(dog, kind, world="general"))


def test_pictures_in_which_the_judge_sees_the_concept_are_left_out(tiny_pipe: Any) -> None:
    base = Artist(tiny_pipe, SAMPLING)
    prompts = ("a house", "a castle", "a tent")
    options: dict[str, Any] = {"pictures": 2, "seed": 0}

    def first(images: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(images)) == 0

    found = draw_tuning_set(prompts, "related", base, first, **options)
    assert (len(found.images), found.record.dropped) == (2, 1)
    assert set(found.prompts) <= set(prompts)
    with pytest.raises(EvaluationError, match="the judge sees the concept in all 4 related pictures"):
        draw_tuning_set(prompts, "related", base, lambda images: torch.ones(len(images)).bool(), **options)
