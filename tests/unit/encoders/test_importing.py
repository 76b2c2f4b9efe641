"""A foreign robust encoder becomes an artifact of its difference to the base, and says where it is from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection

from diffusers_erasure import verify_erasure
from diffusers_erasure.artifacts import (
    Artifact,
    BaseModelRef,
    DeltaEdit,
    ErasureState,
    load_artifact,
    load_erasure,
    save_artifact,
)
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.encoders.importing import ImportedEncoder, changed_places, import_encoder
from diffusers_erasure.encoders.loading import LoadRequest
from diffusers_erasure.errors import (
    ArtifactIntegrityError,
    ArtifactMismatchError,
    BaseModelMismatchError,
    ConfigError,
    ErasureStateError,
)
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
from tests.unit.artifacts.test_hub import COMMIT, REPO, FakeHub
from tests.unit.encoders.published import FC1, Tensors, publish, published_tensors, retrained

PROMPTS = ["a church", "a dog", ""]
unverified = pytest.mark.filterwarnings("ignore:.*loaded unverified:UserWarning")


@pytest.fixture
def folder(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> Path:
    """A robust encoder as it is published; its embeddings and final norm are the base's."""
    return publish(tiny_pipe.text_encoder, tmp_path / "pub" / "church_unlearned")


def imported(pipe: Any, source: Path | str, **request: Any) -> ImportedEncoder:
    return import_encoder(
        pipe,
        LoadRequest(str(source), **request),
        concepts=resolve_concepts(["church"], anchors=("",)),
        base=BaseModelRef(id="tiny"),
        method="advunlearn",
    )


def states(pipe: StableDiffusionPipeline, encoder: Any) -> torch.Tensor:
    """Text states of the prompts, `(prompts, tokens, width)`."""
    ids = pipe.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        found: torch.Tensor = encoder(ids).last_hidden_state
    return found


@unverified
def test_the_erased_states_are_those_of_the_encoder(
    tiny_pipe: StableDiffusionPipeline, tiny_pipe_folder: Path, folder: Path, tmp_path: Path
) -> None:
    out = save_artifact(imported(tiny_pipe, folder).artifact, tmp_path / "out")
    foreign = states(tiny_pipe, RobustEncoder.from_pretrained(folder, allow_unverified=True))
    base = states(tiny_pipe, tiny_pipe.text_encoder)
    erased = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, erasure=out)
    robust = RobustEncoder.from_pretrained(out, base=tiny_pipe_folder)
    for encoder in (erased.text_encoder, robust):
        torch.testing.assert_close(states(tiny_pipe, encoder), foreign, rtol=1e-6, atol=1e-6)
    assert float((foreign - base).abs().max()) > 0.1
    assert robust.erasure is not None
    assert robust.erasure.verified
    assert robust.erasure.method == "advunlearn"
    assert robust.erasure.concepts == ("church",)


@unverified
def test_a_base_stored_in_half_precision_does_not_round_the_erasure(
    tiny_pipe: StableDiffusionPipeline, folder: Path, tmp_path: Path
) -> None:
    tiny_pipe.to(torch.float16).save_pretrained(tmp_path / "base")
    out = save_artifact(imported(tiny_pipe.to(torch.float32), folder).artifact, tmp_path / "out")
    foreign = RobustEncoder.from_pretrained(folder, allow_unverified=True)
    base = tiny_pipe.text_encoder.state_dict()
    foreign.load_state_dict({k: v if ".layers." in k else base[k] for k, v in foreign.state_dict().items()})
    found = RobustEncoder.from_pretrained(out, base=tmp_path / "base")
    expected = states(tiny_pipe, foreign)
    torch.testing.assert_close(states(tiny_pipe, found), expected, rtol=1e-6, atol=1e-6)
    assert found.dtype == torch.float32
    for dtype in ("auto", torch.float16):
        stored = RobustEncoder.from_pretrained(out, base=tmp_path / "base", dtype=dtype)
        assert stored.dtype == torch.float16


def test_only_what_changed_is_stored_and_counted(tiny_pipe: StableDiffusionPipeline, folder: Path) -> None:
    found = imported(tiny_pipe, folder)
    edit = found.artifact.edits["text_encoder"]
    expected = {key for key in tiny_pipe.text_encoder.state_dict() if ".layers." in key}
    assert isinstance(edit, DeltaEdit)
    assert set(edit.deltas) == expected
    assert len(found.difference.deltas) == len(expected) == 32
    assert found.difference.total == 36
    assert found.difference.rounded == 0
    assert found.difference.places == "encoder layers 0-1"
    before, after = (
        published_tensors(tiny_pipe.text_encoder),
        retrained(published_tensors(tiny_pipe.text_encoder)),
    )
    moved = sum(float((after[key].double() - before[key].double()).square().sum()) for key in before)
    size = sum(float(before[f"text_model.{key}"].double().square().sum()) for key in expected)
    assert found.difference.relative == pytest.approx((moved / size) ** 0.5)
    assert found.notes == ()


def test_the_base_and_the_random_state_stay_as_they_were(
    tiny_pipe: StableDiffusionPipeline, folder: Path
) -> None:
    before = {key: value.clone() for key, value in tiny_pipe.text_encoder.state_dict().items()}
    random = torch.get_rng_state()
    artifact = imported(tiny_pipe, folder).artifact
    assert torch.equal(torch.get_rng_state(), random)
    after = tiny_pipe.text_encoder.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    load_erasure(tiny_pipe, artifact)
    assert verify_erasure(tiny_pipe, artifact).state is ErasureState.VERIFIED


def settings(artifact: Artifact) -> dict[str, Any]:
    return {name: record.value for name, record in artifact.manifest.settings.items()}


def test_the_manifest_says_what_is_known_and_what_is_not(
    tiny_pipe: StableDiffusionPipeline, folder: Path, tmp_path: Path
) -> None:
    found = imported(tiny_pipe, folder.parent, subfolder=folder.name)
    manifest = load_artifact(save_artifact(found.artifact, tmp_path / "out")).manifest
    sha256 = hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()
    assert settings(found.artifact) == {
        "imported_from": "pub",
        "imported_subfolder": "church_unlearned",
        "imported_file": "pytorch_model.bin",
        "imported_sha256": sha256,
        "changed_tensors": "32 of 36",
        "changed_places": "encoder layers 0-1",
        "training_settings": "unknown",
        "training_seed": "unknown",
        "training_steps": "unknown",
        "training_anchor": "unknown",
    }
    assert (manifest.method, manifest.method_version) == ("advunlearn", "imported")
    assert manifest.seed == -1
    assert manifest.evaluation is None
    assert manifest.commit == ""
    assert str(tmp_path) not in manifest.model_dump_json()
    assert (found.source, found.file, found.sha256) == ("pub/church_unlearned", "pytorch_model.bin", sha256)


def test_the_same_encoder_gives_the_same_erasure_from_either_file(
    tiny_pipe: StableDiffusionPipeline, folder: Path
) -> None:
    pickled = imported(tiny_pipe, folder)
    save_file(dict(retrained(published_tensors(tiny_pipe.text_encoder))), folder / "model.safetensors")
    plain = imported(tiny_pipe, folder)
    assert plain.file == "model.safetensors"
    specs = [found.artifact.spec("text_encoder") for found in (pickled, plain)]
    assert specs[0] == specs[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_base_itself_is_refused(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, dtype: torch.dtype
) -> None:
    def cast(tensors: Tensors) -> Tensors:
        return {
            key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()
        }

    folder = publish(tiny_pipe.text_encoder, tmp_path / "base", cast)
    with pytest.raises(ArtifactMismatchError, match=r"all 36 tensors .* erases nothing") as caught:
        imported(tiny_pipe, folder)
    assert ("by rounding alone" in str(caught.value)) == (dtype != torch.float32)


def test_rounding_is_no_change_but_a_small_change_is(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    def half_of_one(tensors: Tensors) -> Tensors:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        tensors[FC1][0, 0] += 0.01
        return tensors

    found = imported(tiny_pipe, publish(tiny_pipe.text_encoder, tmp_path / "half", half_of_one))
    assert set(found.difference.deltas) == {FC1.removeprefix("text_model.")}
    assert found.difference.rounded > 10

    def by_a_hair(tensors: Tensors) -> Tensors:
        tensors[FC1][0, 0] += 1e-5
        return tensors

    found = imported(tiny_pipe, publish(tiny_pipe.text_encoder, tmp_path / "hair", by_a_hair))
    assert set(found.difference.deltas) == {FC1.removeprefix("text_model.")}
    assert found.difference.rounded == 0
    assert found.difference.places == "encoder layer 0"


def test_a_base_in_half_precision_keeps_its_own_weights(
    tiny_pipe: StableDiffusionPipeline, folder: Path
) -> None:
    with torch.no_grad():
        for parameter in tiny_pipe.text_encoder.parameters():
            parameter.copy_(parameter.half())
    found = imported(tiny_pipe, folder)
    assert found.difference.places == "encoder layers 0-1"
    assert found.difference.rounded > 0


def test_an_encoder_that_shares_nothing_is_noted(
    tiny_pipe: StableDiffusionPipeline, make_tiny_pipe: Callable[..., Any], tmp_path: Path
) -> None:
    stranger = make_tiny_pipe(seed=7).text_encoder
    with torch.no_grad():
        for parameter in stranger.parameters():
            parameter.add_(0.01)
    found = imported(tiny_pipe, publish(stranger, tmp_path / "stranger", lambda tensors: tensors))
    assert len(found.difference.deltas) == 36
    assert "may not be the one" in found.notes[0]


@pytest.mark.parametrize(
    ("entry", "value"),
    [("hidden_act", "gelu"), ("layer_norm_eps", 1e-4), ("num_attention_heads", 4), ("num_hidden_layers", 3)],
)
def test_another_architecture_is_refused_by_its_config(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, entry: str, value: Any
) -> None:
    folder = publish(tiny_pipe.text_encoder, tmp_path / "other", **{entry: value})
    with pytest.raises(BaseModelMismatchError, match=f"{entry} = {value!r}"):
        imported(tiny_pipe, folder)


def test_an_encoder_of_another_width_is_refused(
    tiny_pipe: StableDiffusionPipeline, make_tiny_pipe: Callable[..., Any], tmp_path: Path
) -> None:
    folder = publish(make_tiny_pipe(width=12).text_encoder, tmp_path / "wide")
    with pytest.raises(BaseModelMismatchError, match="hidden_size = 12"):
        imported(tiny_pipe, folder)


def test_weights_that_do_not_fit_their_config_are_refused(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    folder = publish(
        tiny_pipe.text_encoder, tmp_path / "cut", lambda t: {k: v for k, v in t.items() if k != FC1}
    )
    with pytest.raises(ArtifactMismatchError, match="1 missing"):
        imported(tiny_pipe, folder)


def test_what_is_ours_already_is_sent_elsewhere(
    tiny_pipe: StableDiffusionPipeline, folder: Path, tmp_path: Path
) -> None:
    out = save_artifact(imported(tiny_pipe, folder).artifact, tmp_path / "out")
    with pytest.raises(ConfigError, match="an artifact already"):
        imported(tiny_pipe, out)
    erasure = {"method": "advunlearn", "concepts": ["church"]}
    RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=erasure).save_pretrained(tmp_path / "own")
    with pytest.raises(ConfigError, match="robust encoder of this package"):
        imported(tiny_pipe, tmp_path / "own")


def test_a_base_that_is_none_is_refused(tiny_pipe: StableDiffusionPipeline, folder: Path) -> None:
    artifact = imported(tiny_pipe, folder).artifact
    load_erasure(tiny_pipe, artifact)
    with pytest.raises(ErasureStateError, match="erasure already"):
        imported(tiny_pipe, folder)
    tiny_pipe.text_encoder = CLIPTextModelWithProjection(tiny_pipe.text_encoder.config)
    with pytest.raises(ConfigError, match="CLIPTextModelWithProjection"):
        imported(tiny_pipe, folder)


@pytest.fixture
def hub(folder: Path, serve_hub: Callable[[object], None]) -> FakeHub:
    """The same encoder in a subfolder on the Hub."""
    fake = FakeHub({f"{folder.name}/{path.name}": path.read_bytes() for path in folder.iterdir()})
    serve_hub(fake)
    return fake


def test_repository_subfolder_and_commit_are_recorded(
    hub: FakeHub, tiny_pipe: StableDiffusionPipeline, folder: Path, tmp_path: Path
) -> None:
    found = imported(tiny_pipe, REPO, subfolder=folder.name, revision="main", cache_dir=tmp_path / "cache")
    local = imported(tiny_pipe, folder)
    told = settings(found.artifact)
    assert told["imported_from"] == REPO
    assert told["imported_subfolder"] == folder.name
    assert told["imported_revision"] == "main"
    assert told["imported_commit"] == COMMIT
    assert told["imported_sha256"] == local.sha256
    assert found.source == f"{REPO}/{folder.name} at {COMMIT}"
    assert found.artifact.spec("text_encoder") == local.artifact.spec("text_encoder")


def test_a_file_unlike_the_hubs_own_hash_is_refused(
    hub: FakeHub, tiny_pipe: StableDiffusionPipeline, folder: Path, tmp_path: Path
) -> None:
    hub.spoil = lambda name, data, _: data[:-1] + b"\1" if name.endswith(".bin") else data
    with pytest.raises(ArtifactIntegrityError, match="hash that the Hub gave it"):
        imported(tiny_pipe, REPO, subfolder=folder.name, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["encoder.layers.0.mlp.fc1.weight"], "encoder layer 0"),
        ([f"encoder.layers.{n}.mlp.fc1.bias" for n in (0, 1, 2, 10, 11, 5)], "encoder layers 0-2, 5, 10-11"),
        (
            ["final_layer_norm.bias", "final_layer_norm.weight", "encoder.layers.3.layer_norm1.bias"],
            "encoder layer 3, final_layer_norm",
        ),
        (["embeddings.token_embedding.weight"], "embeddings.token_embedding"),
    ],
)
def test_places_are_told_in_words(names: list[str], places: str) -> None:
    assert changed_places(tuple(names)) == places
