"""Composing artifacts of TRCE's stage 1: the sums are a joint run's, and what does not fit is refused."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load, save
from torch import Tensor

from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.edits import DeltaEdit, RightFactorEdit, apply_edit
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.artifacts.verify import ErasureState
from diffusers_erasure.cli.main import main
from diffusers_erasure.diffusion import text_projections
from diffusers_erasure.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    BaseModelMismatchError,
    ConfigError,
)
from diffusers_erasure.pipelines.verifying import verify_erasure
from diffusers_erasure.training.compose import compose_trce, load_part
from diffusers_erasure.training.stored_statistics import STATISTICS_NAME
from diffusers_erasure.training.trce import train_trce
from diffusers_erasure.training.trce_settings import TRCEConfig

BASE = BaseModelRef(id="tiny")
CONCEPTS = ("dog", "church", "apple")
Train = Callable[..., Artifact]


def train(pipe: Any, *concepts: str, **values: object) -> Artifact:
    """Stage 1, with a few prompts."""
    base = values.pop("base", BASE)
    defaults: dict[str, object] = {
        "concept": concepts,
        "stages": "1",
        "preset": "paper",
        "num_templates": 2,
        "max_retain_prompts": 12,
        "ridge": 1e-3,
    }
    return train_trce(pipe, TRCEConfig.parse(defaults | values), base=base)


def factor(artifact: Artifact) -> Tensor:
    """X, `(width, width)` float64."""
    edit = artifact.edits["unet"]
    assert isinstance(edit, RightFactorEdit)
    return edit.matrix.double()


def gap(one: Artifact, other: Artifact) -> float:
    """How far two factors are apart, relative to their size."""
    return float((factor(one) - factor(other)).norm() / factor(other).norm())


@pytest.fixture(scope="module")
def parts(tiny_pipeline: StableDiffusionPipeline) -> dict[str, Artifact]:
    """Each concept on its own."""
    return {concept: train(tiny_pipeline, concept) for concept in CONCEPTS}


@pytest.fixture(scope="module")
def joint(tiny_pipeline: StableDiffusionPipeline) -> Artifact:
    """All concepts at once."""
    return train(tiny_pipeline, *CONCEPTS)


@pytest.fixture
def saved(parts: dict[str, Artifact], tmp_path: Path) -> dict[str, Path]:
    """The parts as folders of this test's own."""
    return {name: save_artifact(part, tmp_path / name) for name, part in parts.items()}


@pytest.mark.parametrize("order", list(itertools.permutations(CONCEPTS))[::2])
def test_parts_compose_to_the_joint_solution(
    tiny_pipeline: StableDiffusionPipeline,
    parts: dict[str, Artifact],
    joint: Artifact,
    order: tuple[str, ...],
) -> None:
    found = compose_trce(tiny_pipeline, [parts[name] for name in order])
    assert gap(found, joint) < 1e-6
    assert found.manifest.concept_names == order
    assert gap(parts["dog"], joint) > 0.1


def test_composing_goes_on(
    tiny_pipeline: StableDiffusionPipeline, parts: dict[str, Artifact], joint: Artifact
) -> None:
    dog, church, apple = parts.values()
    steps = compose_trce(tiny_pipeline, [compose_trce(tiny_pipeline, [dog, church]), apple])
    once = compose_trce(tiny_pipeline, [dog, church, apple])
    assert gap(steps, joint) < 1e-6
    assert steps.manifest.settings == once.manifest.settings
    leaves: Any = once.manifest.settings["composed_of"].value
    assert [leaf["digest"] for leaf in leaves] == [part.digest for part in (dog, church, apple)]


def test_settings_are_those_of_the_parts(
    tiny_pipeline: StableDiffusionPipeline, parts: dict[str, Artifact], joint: Artifact, tmp_path: Path
) -> None:
    """What they agree in stands at the top; what is one part's own stands with that part."""
    words = tmp_path / "pairs.csv"
    words.write_text("malicious,safe\nrings bells,\n", encoding="utf-8")
    other = train(tiny_pipeline, "church", num_templates=1, anchor=["barn"], pairs_file=str(words))
    found = compose_trce(
        tiny_pipeline, [compose_trce(tiny_pipeline, [parts["dog"], other]), parts["apple"]]
    ).manifest.settings
    leaves: Any = found["composed_of"].value
    assert [leaf["concepts"] for leaf in leaves] == [["dog"], ["church"], ["apple"]]
    assert [leaf["settings"]["num_templates"] for leaf in leaves] == [2, 1, 2]
    assert [leaf["settings"]["anchor"] for leaf in leaves] == [[], ["barn"], []]
    assert "num_templates" not in found
    assert found["further_prompts"].value == ["rings bells"]
    assert found["concept"].value == ["dog", "church", "apple"]
    same = set(found) - {"composed_of", "further_prompts"}
    assert {name: found[name] for name in same} == {name: joint.manifest.settings[name] for name in same}
    assert {"preserve_scale", "ridge", "retain_set", "stages", "preset"} <= same


def test_many_states_and_a_patch_of_each_layer(tiny_pipeline: StableDiffusionPipeline) -> None:
    """Where pairs are more than the width, and tokens of the concept are mapped too."""
    values: dict[str, object] = {
        "keyword_weight": 1.0,
        "keyword_target": "anchor",
        "sot_weight": 0.1,
        "num_templates": 6,
        "edit_form": "cross_attention",
        "deviations": ["released_prior"],
        "preserve_scale": 20.0,
    }
    apart = [train(tiny_pipeline, name, **values) for name in CONCEPTS[:2]]
    found = compose_trce(tiny_pipeline, apart).edits["unet"]
    expected = train(tiny_pipeline, *CONCEPTS[:2], **values).edits["unet"]
    assert isinstance(found, DeltaEdit)
    for projection in text_projections(tiny_pipeline.unet):
        one, two = (
            apply_edit(projection.weight, [(edit, 1.0)], name=projection.key) - projection.weight
            for edit in (found, expected)
        )
        assert (one - two).norm() < 1e-5 * two.norm()  # a change of float32 weights


def test_two_text_encoders(tiny_xl: StableDiffusionXLPipeline) -> None:
    apart = [train(tiny_xl, name, num_templates=1) for name in CONCEPTS[:2]]
    assert gap(compose_trce(tiny_xl, apart), train(tiny_xl, *CONCEPTS[:2], num_templates=1)) < 1e-6


def test_statistics_survive_saving_and_the_digest_stays(
    tiny_pipeline: StableDiffusionPipeline, parts: dict[str, Artifact], saved: dict[str, Path]
) -> None:
    for name, folder in saved.items():
        assert load_part(folder).documents == parts[name].documents
        assert load_artifact(folder).documents == {}
        assert load_artifact(folder).digest == parts[name].digest
    plain = train(tiny_pipeline, "dog", save_statistics=False)
    assert plain.documents == {}
    assert plain.digest == parts["dog"].digest
    held = load(parts["dog"].documents[STATISTICS_NAME])
    assert {tensor.dtype for tensor in held.values()} == {torch.float64}
    assert held["shift"].shape == held["gram"].shape == (8, 8)


def test_only_stage_1_alone_has_statistics(tiny_pipe: StableDiffusionPipeline) -> None:
    values: dict[str, object] = {
        "max_train_steps": 1,
        "num_inference_steps": 2,
        "early_steps": 1,
        "trajectories_per_prompt": 1,
        "regularization_trajectories": 1,
        "steering_templates": 0,
        "use_synonyms": False,
    }
    both = train(tiny_pipe, "dog", stages="1+2", **values)
    assert both.documents == {}
    with pytest.raises(ConfigError, match=r"was made by stages 1\+2 of trce"):
        compose_trce(tiny_pipe, [both, train(tiny_pipe, "church")])


def test_an_artifact_without_its_statistics_loads_and_draws(
    tiny_pipe: StableDiffusionPipeline, saved: dict[str, Path], draw: Callable[..., Tensor]
) -> None:
    (saved["dog"] / STATISTICS_NAME).unlink()
    before = draw(tiny_pipe, "a dog")
    load_erasure(tiny_pipe, saved["dog"])
    assert verify_erasure(tiny_pipe).state is ErasureState.VERIFIED
    assert (draw(tiny_pipe, "a dog") - before).abs().max() > 1e-3
    with pytest.raises(ArtifactNotFoundError, match=r"statistics\.safetensors does not exist"):
        load_part(saved["dog"])


def test_changed_statistics_are_refused(saved: dict[str, Path]) -> None:
    path = saved["dog"] / STATISTICS_NAME
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactIntegrityError, match=r"statistics\.safetensors is corrupted"):
        load_part(saved["dog"])
    assert load_artifact(saved["dog"])
    with path.open("r+b") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(ArtifactFormatError, match="expected at most 268435456"):
        load_part(saved["dog"])


def _broken(part: Artifact, change: Callable[[dict[str, Tensor]], object], **metadata: str) -> Artifact:
    """A part whose statistics somebody wrote who could also sign them."""
    content = part.documents[STATISTICS_NAME]
    noted = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    tensors = load(content)
    change(tensors)
    return replace(part, documents={STATISTICS_NAME: save(tensors, metadata=noted | metadata)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held["gram"].fill_(torch.nan), "NaN or infinite"),
        (lambda held: held["shift"].zero_(), "all zero"),
        (lambda held: held["gram"][0, 1].add_(1), "not symmetric"),
        (lambda held: held["gram"].neg_(), "negative"),
        (lambda held: held["count"].neg_(), "negative"),
        (lambda held: held.update(gram=torch.ones(4, 4, dtype=torch.float64)), r"expected F64 \(8, 8\)"),
        (lambda held: held.update(gram=held["gram"].float()), "is F32"),
        (lambda held: held.pop("count"), "1 missing"),
        (lambda held: held.update(more=held["gram"].clone()), "1 unexpected"),
    ],
)
def test_what_cannot_be_statistics_is_refused(
    tiny_pipeline: StableDiffusionPipeline,
    parts: dict[str, Artifact],
    change: Callable[[dict[str, Tensor]], object],
    message: str,
) -> None:
    with pytest.raises(ArtifactError, match=message):
        compose_trce(tiny_pipeline, [_broken(parts["dog"], change), parts["church"]])


def test_another_base_model_is_refused(
    parts: dict[str, Artifact], make_tiny_pipe: Callable[..., StableDiffusionPipeline]
) -> None:
    pipe, both = make_tiny_pipe(), [parts["dog"], parts["church"]]
    with pytest.raises(BaseModelMismatchError, match=r"of dog .* was trained on a UNet of tiny"):
        compose_trce(make_tiny_pipe(seed=1), both)
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[0] += 1
    with pytest.raises(BaseModelMismatchError, match="come from text encoders"):
        compose_trce(pipe, both)


def test_a_base_model_of_another_kind_of_prompts_is_refused(
    tiny_pipeline: StableDiffusionPipeline, parts: dict[str, Artifact]
) -> None:
    other = train(tiny_pipeline, "church", base=BaseModelRef(id="embedded"))
    with pytest.raises(ConfigError, match=r"prompts for the base model 'tiny'.*for 'embedded'"):
        compose_trce(tiny_pipeline, [parts["dog"], other])


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("sot_weight", 0.5, r"0\.0, .* with 0\.5"),
        ("eot_weight", 2.0, r"1\.0, .* with 2\.0"),
        ("keyword_target", "anchor", "'last-eot', .* with 'anchor'"),
        ("preserve_scale", 0.031, r"0\.0077, .* with 0\.031"),
        ("ridge", 1e-2, r"0\.001, .* with 0\.01"),
        ("retain_set", "objects", "'scenes', .* with 'objects'"),
        ("retain_exclude", ["street"], r"\[\], .* with \['street'\]"),
        ("max_retain_prompts", 10, "12, .* with 10"),
        ("deviations", ["released_prior"], r"\[\], .* with \['released_prior'\]"),
    ],
)
def test_settings_that_differ_are_named(
    tiny_pipeline: StableDiffusionPipeline, parts: dict[str, Artifact], name: str, value: object, shown: str
) -> None:
    other = train(tiny_pipeline, "church", **{name: value})
    with pytest.raises(ConfigError, match=f"of dog .* was trained with {name} {shown}"):
        compose_trce(tiny_pipeline, [parts["dog"], other])


def test_what_cannot_be_composed_is_refused(
    tiny_pipeline: StableDiffusionPipeline, parts: dict[str, Artifact], tiny_artifact: Artifact
) -> None:
    dog = parts["dog"]
    plain = train(tiny_pipeline, "church", save_statistics=False)
    refused: list[tuple[list[Artifact], str]] = [
        ([dog], "1 artifacts are given"),
        ([dog, tiny_artifact], "was made by the method uce"),
        ([dog, plain], "has no statistics at hand.*train it with save_statistics"),
        ([dog, train(tiny_pipeline, "dog", num_templates=1)], "both erase 'dog'"),
        ([dog, train(tiny_pipeline, "puppy")], "both erase 'puppy'"),
        ([train(tiny_pipeline, "weapons"), train(tiny_pipeline, "pistol")], "both erase 'pistol'"),
    ]
    for some, message in refused:
        with pytest.raises(ConfigError, match=message):
            compose_trce(tiny_pipeline, some)


def test_a_retain_set_of_a_file_has_to_be_given_again(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    prompts = tmp_path / "kept.txt"
    prompts.write_text("a cat\nowl\ntwo cars\nred tree\na bowl of rice\nmy dog", encoding="utf-8")
    values: dict[str, object] = {"retain_set": str(prompts), "max_retain_prompts": None}
    apart = [train(tiny_pipeline, name, **values) for name in CONCEPTS[:2]]
    with pytest.raises(ConfigError, match=r"kept\.txt', a file of a user; .* give it as retain_set"):
        compose_trce(tiny_pipeline, apart)
    expected = train(tiny_pipeline, *CONCEPTS[:2], **values)
    given = compose_trce(tiny_pipeline, apart, retain_set=str(prompts))
    assert gap(given, expected) < 1e-6
    for name in ("retain_set", "retained_prompts"):
        assert given.manifest.settings[name].value == expected.manifest.settings[name].value
    stored = compose_trce(
        tiny_pipeline, apart, retain_set=str(prompts), prior_file=str(tmp_path / "prior.safetensors")
    )
    assert gap(stored, expected) < 1e-6
    assert (tmp_path / "prior.safetensors").is_file()


def test_pairs_that_a_joint_run_would_choose_otherwise_are_told(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = tmp_path / "pairs.csv"
    words.write_text("malicious,safe\nbarks at me,meows\n", encoding="utf-8")
    apart = [train(tiny_pipeline, name, pairs_file=str(words), use_tags=True) for name in ("dog", "cat")]
    with caplog.at_level(logging.WARNING):
        compose_trce(tiny_pipeline, apart)
    told = caplog.text
    assert "maps 'dog' to 'cat', which the erasure of cat" in told
    assert "maps 'cat' to 'dog', which the erasure of dog" in told
    assert "both map 'barks at me' and 0 prompts more" in told
    assert "lists of tags, such as" in told
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        compose_trce(tiny_pipeline, [train(tiny_pipeline, name) for name in CONCEPTS[:2]])
    assert not [record for record in caplog.records if "joint run" in record.message]


def test_an_unreadable_record_of_parts_is_refused(
    tiny_pipeline: StableDiffusionPipeline, parts: dict[str, Artifact]
) -> None:
    settings = dict(parts["dog"].manifest.settings)
    settings["composed_of"] = settings["ridge"]
    odd = replace(parts["dog"], manifest=parts["dog"].manifest.model_copy(update={"settings": settings}))
    with pytest.raises(ArtifactFormatError, match="records under composed_of what cannot be read"):
        compose_trce(tiny_pipeline, [odd, parts["church"]])


def test_the_command_composes_what_train_saved(
    tiny_pipe_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--pretrained_model_name_or_path", str(tiny_pipe_folder)]
    short = ["--stages", "1", "--num_templates", "1", "--max_retain_prompts", "6", "--ridge", "1e-3"]
    folders = [str(tmp_path / name) for name in CONCEPTS[:2]]
    for name, folder in zip(CONCEPTS, folders, strict=False):
        arguments = ["train", "trce", "--concept", name, "--output_dir", folder, *base, *short]
        assert main(arguments) == 0
    target = tmp_path / "both"
    assert main(["compose", *folders, "--output_dir", str(target), *base]) == 0
    shown = capsys.readouterr().out
    for words in ("dog → cat, church → ", "retained states", "saved"):
        assert words in shown
    assert load_part(target).manifest.concept_names == CONCEPTS[:2]
    assert main(["verify", str(target), *base]) == 0
    assert main(["compose", *folders, "--output_dir", str(target), *base]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["compose", folders[0], "--output_dir", str(tmp_path / "one"), *base]) == 2
    assert "expected at least two" in capsys.readouterr().err
