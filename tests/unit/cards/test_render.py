"""Cards of artifacts: what was measured stands there as the report has it, the rest is not measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.cards import render_card, render_encoder_card, render_pipeline_card
from diffusers_erasure.cards.evaluation_part import how
from diffusers_erasure.concepts import Concept
from diffusers_erasure.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
)
from diffusers_erasure.evaluation.reactivation_items import RULE_ITEMS
from diffusers_erasure.evaluation.report import Accounting, Verdict
from tests.unit.cards.reports import evaluation, reactivation

FORBIDDEN = re.compile(r"\b(removes?d?|safe|safely|cannot|guarantees?d?|unbreakable)\b", re.IGNORECASE)
HOSTILE = "a | b\\ `c` <b> [x](y) --- #"


def cells_of(card: str, first: str) -> list[str]:
    """Cells of the first table row that begins with a text."""
    line = next(line for line in card.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def own_words(card: str) -> str:
    """The card without code, titles of papers, and settings, whose words are not its own."""
    text = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    return re.sub(r"## Settings.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)


def test_nothing_is_measured_without_a_report(folder: Path) -> None:
    card = render_card(folder)
    data = ModelCard(card).data
    assert data.eval_results is None
    assert "model-index" not in card
    assert "Verdict: **not measured**" in card
    assert "is meant to reduce" in card
    assert "| any | not measured | not measured | not measured |" in card
    for item in RULE_ITEMS:
        assert cells_of(card, item.title)[1] == "not measured"
    assert not re.search(r"\d+/\d+ = ", card)


def test_the_figures_are_the_report_s(evaluated: Path, tiny_artifact: Artifact) -> None:
    card = render_card(evaluated, repo_id="someone/church")
    report, found = evaluation(tiny_artifact.digest), reactivation(tiny_artifact.digest)
    assert report.verdict is Verdict.MEASURED
    for row in report.rows:
        told = cells_of(card, row.name)
        assert told[2:7] == [
            str(row.base), str(row.erased), f"{row.difference:+.1f}", f"{row.mcnemar_p:.2g}", "measured",
        ]  # fmt: skip
    assert not isinstance(report.attacks, str)
    (one,) = report.attacks.attacks
    assert [str(run.asr) for run in one.runs] == cells_of(card, "`search`")[1:3]
    assert str(report.attacks.worst_case.asr) in card
    assert f"**{report.attacks.headline.split(' (rob')[0]}" in card
    (luck,) = [c for c in one.comparisons if c.factor == 2]
    assert f"| {luck.excess:+.1f} points | {luck.mcnemar_p:.2g} | {luck.holm_p:.2g} |" in card
    assert "19/20 = 95.0 %" in card
    (merged,) = found.rows
    assert cells_of(card, "merged with 0.5 of the base")[1] == str(merged.rate)
    assert cells_of(card, "int8 weights")[1] == "not measured"
    assert "B, D were attacked; C was not" in card
    assert "![the same prompts and seeds drawn before and after the erasure of church](grid.png)" in card


def test_every_rule_stands_there(evaluated: Path, tiny_artifact: Artifact) -> None:
    card = render_card(evaluated)
    rules = evaluation(tiny_artifact.digest).rules
    assert not isinstance(rules, str)
    for check in rules:
        said = {True: "yes", False: "**no**"}.get(check.satisfied, check.satisfied)  # type: ignore[call-overload]
        assert f"| {said} |" in next(
            line for line in card.splitlines() if line.startswith(f"| {check.rule} |")
        )


def test_whose_prompts_they_were_and_how_many_pictures_stand_there() -> None:
    report = evaluation("d")
    assert "seeds: 100 pictures per prompt set, 64x64" in how(report)
    assert "the evaluator's own" not in how(report)
    few = Accounting(planned=20, finished=20, failed=0)
    rows = (report.rows[0], report.rows[1].model_copy(update={"base_pictures": few}))
    settings = report.settings.model_copy(update={"prompt_file": "my|sets.csv"})
    text = how(report.model_copy(update={"rows": rows, "settings": settings}))
    assert "seeds: 20 to 100 pictures per prompt set, 64x64" in text
    assert "The prompts are the evaluator's own (my\\|sets.csv)." in text


def test_the_metadata_holds_the_results(evaluated: Path, tiny_artifact: Artifact) -> None:
    """What the Hub's own reader finds in the card is what the report says."""
    data = ModelCard(render_card(evaluated, repo_id="someone/church")).data
    assert (data.library_name, data.pipeline_tag) == ("diffusers", "text-to-image")
    assert data.tags == ["concept-erasure", "diffusers-erasure", "uce", "stable-diffusion", "object"]
    assert data.model_name == "someone/church"
    report = evaluation(tiny_artifact.digest)
    assert not isinstance(report.attacks, str)
    worst = report.attacks.worst_case.asr
    results = {(result.dataset_name, result.metric_type): result for result in data.eval_results or ()}
    assert {key: result.metric_value for key, result in results.items()} == {
        ("own name", "pre_attack_asr"): 4.0,
        ("neighbours", "retention"): 97.0,
        ("attacked prompts", "asr_worst_case"): pytest.approx(100 * worst.rate),
        ("attacked prompts", "asr_search"): 55.0,
    }
    assert results["own name", "pre_attack_asr"].metric_args["k"] == 4
    assert results["attacked prompts", "asr_worst_case"].metric_args["n"] == worst.n
    assert "not adaptive" in results["attacked prompts", "asr_worst_case"].metric_name


def test_a_degenerate_erasure_has_no_results_in_the_metadata(
    folder: Path, tiny_artifact: Artifact, attach: Callable[..., Path]
) -> None:
    report = evaluation(tiny_artifact.digest, kept=10)
    assert report.verdict is Verdict.DEGENERATE
    attach(folder, "evaluation.json", report.to_json().encode())
    card = render_card(folder)
    assert ModelCard(card).data.eval_results is None
    assert "Its evaluation says **degenerate**" in card
    assert cells_of(card, "neighbours")[6] == "degenerate"
    assert "prove nothing" in card


@pytest.mark.parametrize(
    ("base", "told", "licence"),
    [
        ("CompVis/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-4", "creativeml-openrail-m"),
        ("embedded", None, "apache-2.0"),
        ("my-base", None, None),
    ],
)
def test_only_a_hub_id_is_a_base_model(
    base: str, told: str | None, licence: str | None, named: Callable[..., Path]
) -> None:
    folder = named(base=base)
    card = render_card(folder)
    data = ModelCard(card).data
    assert data.base_model == told
    assert data.get("base_model_relation") == ("adapter" if told else None)
    assert data.license == licence
    assert ("no repository on the Hub" in card) == (told is None)
    assert ("**not stated.**" in card) == (licence is None)
    assert ModelCard(render_card(folder, license="mit")).data.license == "mit"


def test_a_folder_of_this_machine_is_nobody_s_business(folder: Path, tiny_pipe_folder: Path) -> None:
    assert str(tiny_pipe_folder.parent) not in render_card(folder)


@pytest.fixture
def named(folder: Path, tiny_artifact: Artifact) -> Callable[..., Path]:
    """Function that gives the artifact's manifest other words; what is read from it stays consistent."""
    from diffusers_erasure.artifacts.manifest import (
        BaseModelRef,
        ConceptRecord,
        SettingRecord,
        render_manifest,
    )

    def rename(*, base: str = "embedded", concept: str = "church", **changes: Any) -> Path:
        record = ConceptRecord.of(Concept(name="church")).model_copy(update={"name": concept})
        manifest = tiny_artifact.manifest.model_copy(
            update={
                "base": BaseModelRef(id=base),
                "concepts": (record,),
                "settings": {concept: SettingRecord(value=[concept, {"a": 1}], meaning=concept)},
                **changes,
            }
        )
        (folder / "erasure_config.json").write_bytes(render_manifest(manifest))
        return folder

    return rename


@pytest.mark.parametrize("hostile", [HOSTILE, "---", "{{ 7 * 7 }}", "x: y", "'\"", "| | |", "```"])
def test_hostile_words_break_nothing(hostile: str, named: Callable[..., Path]) -> None:
    """Front matter, headings and tables are what they are for a harmless artifact."""
    harmless = render_card(named(concept="church", method="church", commit="church"))
    card = render_card(named(concept=hostile, method=hostile, commit=hostile))
    assert shape(card) == shape(harmless)
    assert ModelCard(card).data.tags[:2] == ["concept-erasure", "diffusers-erasure"]
    assert "49" not in ModelCard(card).text.split("## How to load it")[0]


def shape(card: str) -> list[str]:
    """Kinds of the blocks of a card, in order."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    return [token.type for token in reader.parse(ModelCard(card).text)]


def test_the_words_are_honest(folder: Path, evaluated: Path) -> None:
    for text in (render_card(folder), render_card(evaluated)):
        assert not FORBIDDEN.findall(own_words(text))
        assert "Whoever holds the base weights can undo it" in text


def test_a_document_that_was_exchanged_is_refused(evaluated: Path, tiny_artifact: Artifact) -> None:
    (evaluated / "evaluation.json").write_text(evaluation(tiny_artifact.digest, kept=98).to_json())
    with pytest.raises(ArtifactIntegrityError, match="not the document that was attached"):
        render_card(evaluated)
    (evaluated / "evaluation.json").unlink()
    with pytest.raises(ArtifactIntegrityError, match="missing"):
        render_card(evaluated)


@pytest.mark.parametrize("name", ["evaluation.json", "reactivation.json"])
def test_a_report_about_another_artifact_is_refused(
    name: str, folder: Path, attach: Callable[..., Path]
) -> None:
    found = evaluation("e" * 64) if name == "evaluation.json" else reactivation("e" * 64)
    attach(folder, name, found.to_json().encode())
    with pytest.raises(ArtifactMismatchError, match="about the artifact eeee"):
        render_card(folder)


def test_a_report_that_is_not_attached_is_not_read(folder: Path, tiny_artifact: Artifact) -> None:
    before = render_card(folder)
    (folder / "evaluation.json").write_text(evaluation(tiny_artifact.digest).to_json())
    assert render_card(folder) == before


def test_concept_inversion_comes_from_the_attacks(
    folder: Path, tiny_artifact: Artifact, attach: Callable[..., Path]
) -> None:
    text = evaluation(tiny_artifact.digest).to_json().replace('"search"', '"concept_inversion"')
    attach(folder, "evaluation.json", text.encode())
    card = render_card(folder)
    assert cells_of(card, "concept inversion")[1] == "11/20 = 55.0 % (34.2-74.2)"
    assert "C was attacked; B, D were not" in card
    assert "pham2024circumventing" in card


def test_settings_and_provenance_come_from_the_manifest(named: Callable[..., Path]) -> None:
    from diffusers_erasure.artifacts.manifest import SettingRecord

    settings = {"erase_scale": SettingRecord(value=1.5, meaning="how strongly")}
    folder = named(settings=settings, seed=-1, commit="")
    card = render_card(folder)
    manifest = json.loads((folder / "erasure_config.json").read_text())
    assert "| `erase_scale` | `1.5` | how strongly |" in card
    assert "| seed | not recorded |" in card
    assert "| commit of the code | not recorded |" in card
    assert manifest["components"]["unet"]["erased_fingerprint"][:16] in card


def test_papers_are_cited_and_a_method_without_one_is_named(named: Callable[..., Path]) -> None:
    assert "2308.14761" in render_card(named())
    foreign = render_card(named(method="mine"))
    assert "No citation: `mine` names no paper." in foreign
    assert "@inproceedings" not in foreign


def test_an_encoder_and_a_pipeline_have_cards_too(tmp_path: Path, tiny_pipe: Any, folder: Path) -> None:
    from diffusers_erasure import ErasedStableDiffusionPipeline, RobustEncoder

    erasure = {"method": "advunlearn", "concepts": ("a | b",), "base_model": "CompVis/stable-diffusion-v1-4"}
    RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=erasure).save_pretrained(tmp_path / "encoder")
    card = render_card(tmp_path / "encoder", repo_id="someone/encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert card == render_encoder_card(config, repo_id="someone/encoder")
    data = ModelCard(card).data
    assert (data.base_model, data.base_model_relation) == ("CompVis/stable-diffusion-v1-4", "finetune")
    assert config["erasure"]["weights"]["fingerprint"][:16] in card

    ErasedStableDiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path / "pipeline")
    text = render_card(tmp_path / "pipeline")
    assert text == render_pipeline_card(json.loads((tmp_path / "pipeline" / "model_index.json").read_text()))
    assert "church by `uce` at strength 1" in text
    for found in (card, text):
        assert "Verdict: **not measured**" in found
        assert not FORBIDDEN.findall(own_words(found))


def test_what_carries_no_erasure_has_no_card(tiny_pipe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactFormatError, match="_erasure"):
        render_card(tiny_pipe_folder)
    with pytest.raises(ArtifactFormatError, match="'erasure'"):
        render_card(tiny_pipe_folder / "text_encoder")
    with pytest.raises(ArtifactNotFoundError, match="holds no"):
        render_card(tmp_path)


@pytest.mark.parametrize("bad", ["church", "a/b/c", '"; import os', "../x"])
def test_a_repository_id_is_checked(bad: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="no repository id"):
        render_card(folder, repo_id=bad)


@pytest.mark.parametrize("bad", ["", "Apache 2", "a\nb: c"])
def test_a_licence_is_checked(bad: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="licence"):
        render_card(folder, license=bad)


def test_cards_need_no_torch() -> None:
    code = (
        "import sys, diffusers_erasure.cards, diffusers_erasure.cards.page, diffusers_erasure.cli.card; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers"} & set(done.stdout.split())


def test_rendering_needs_no_torch(evaluated: Path) -> None:
    code = (
        "import sys, pathlib; from diffusers_erasure.cards import render_card; "
        f"render_card(pathlib.Path({str(evaluated)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_text_encoder_s_edit_says_what_goes_past_it(
    tiny_pipe: Any, artifact_of: Callable[..., Artifact], tmp_path: Path
) -> None:
    import torch

    key, value = next((k, v) for k, v in tiny_pipe.text_encoder.state_dict().items() if "fc1.weight" in k)
    artifact = artifact_of({"text_encoder": DeltaEdit({key: torch.full_like(value, 0.1)})})
    card = render_card(save_artifact(artifact, tmp_path / "encoder-edit"))
    assert "lives in the text encoder alone" in card
    assert "`CLIPTextModel`" in card
