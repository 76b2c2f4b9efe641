"""What is pulled is what was pushed: one commit, every file whole, repaired once or refused, also offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.hub import TRANSPORT_ERROR
from diffusers_erasure.artifacts.signature import Trust
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    SignatureError,
)
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
from diffusers_erasure.pipelines.base import load_base_pipeline
from tests.unit.hub.conftest import TakingHub

REPO = "org/church"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def erased_repo(hub: TakingHub, tiny_artifact: Artifact, tiny_pipe_folder: Path, tmp_path: Path) -> TakingHub:
    pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, erasure=tiny_artifact)
    pipe.save_pretrained(tmp_path / "erased")
    hub.hold(REPO, tmp_path / "erased")
    return hub


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def pulled(tmp_path: Path, **options: Any) -> ErasedStableDiffusionPipeline:
    return ErasedStableDiffusionPipeline.from_pretrained(REPO, cache_dir=tmp_path / "cache", **options)


@pytest.mark.parametrize("name", [UNET, "vae/diffusion_pytorch_model.safetensors", "unet/config.json"])
def test_a_pipelines_corrupted_file_is_repaired_once(
    erased_repo: TakingHub, tmp_path: Path, name: str
) -> None:
    """Also of components that the erasure left alone, whose weights no seal knows."""
    erased_repo.spoil = lambda file, data, count: flipped(data) if file == name and count == 1 else data
    pipe = pulled(tmp_path)
    assert [one.concepts for one in pipe.erasures] == [("church",)]
    assert erased_repo.sent.count(name) == 2
    expected = StableDiffusionPipeline.from_pretrained(tmp_path / "erased").vae.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in pipe.vae.state_dict().items())
    before = len(erased_repo.calls)
    assert pulled(tmp_path, local_files_only=True).erasures
    assert len(erased_repo.calls) == before


def test_a_pipelines_file_that_stays_corrupted_is_refused(erased_repo: TakingHub, tmp_path: Path) -> None:
    name = "vae/diffusion_pytorch_model.safetensors"
    erased_repo.spoil = lambda file, data, count: flipped(data) if file == name else data
    with pytest.raises(ArtifactIntegrityError, match="hash that the Hub gave it"):
        pulled(tmp_path)
    assert erased_repo.sent.count(name) == 2
    with pytest.raises(ArtifactIntegrityError, match="hash that the Hub gave it"):
        pulled(tmp_path, local_files_only=True)


def test_a_pickle_in_place_of_weights_is_not_read(erased_repo: TakingHub, tmp_path: Path) -> None:
    data = erased_repo.files.pop((REPO, "vae/diffusion_pytorch_model.safetensors"))
    erased_repo.files[REPO, "vae/diffusion_pytorch_model.bin"] = data
    with pytest.raises(ArtifactNotFoundError, match="safetensors"):
        pulled(tmp_path)
    assert "vae/diffusion_pytorch_model.bin" not in erased_repo.sent


@pytest.fixture
def base_repo(hub: TakingHub, tiny_pipe_folder: Path) -> TakingHub:
    """A base as they lie on the Hub: pickles, other variants, checkpoints of other programs, and code."""
    hub.hold(REPO, tiny_pipe_folder)
    for beside in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors", "model.ckpt"):
        hub.files[REPO, f"unet/{beside}"] = b"of another format"
    for beside in ("v1-5-pruned.safetensors", "pipeline.py", "unet/modeling.py", "vae/deep/config.json"):
        hub.files[REPO, beside] = b"not asked for"
    return hub


def test_only_what_makes_the_pipeline_is_fetched(
    base_repo: TakingHub, tiny_pipe_folder: Path, saved: Path, tmp_path: Path
) -> None:
    pipe = pulled(tmp_path, erasure=saved)
    wanted = [path.relative_to(tiny_pipe_folder) for path in tiny_pipe_folder.rglob("*") if path.is_file()]
    assert sorted(base_repo.sent) == sorted(path.as_posix() for path in wanted)
    assert pipe.config["_name_or_path"] == REPO
    assert pulled(tmp_path, erasure=saved, local_files_only=True).erasures
    assert type(load_base_pipeline(REPO, cache_dir=tmp_path / "cache")) is StableDiffusionPipeline
    assert len(base_repo.sent) == len(wanted)


def test_a_variant_is_fetched_where_there_is_one(
    base_repo: TakingHub, tiny_pipe_folder: Path, saved: Path, tmp_path: Path
) -> None:
    half = "unet/diffusion_pytorch_model.fp16.safetensors"
    base_repo.files[REPO, half] = (tiny_pipe_folder / UNET).read_bytes()
    assert pulled(tmp_path, erasure=saved, variant="fp16").erasures
    assert half in base_repo.sent
    assert UNET not in base_repo.sent


def test_weights_of_a_base_may_be_pickles_where_there_are_no_others(
    base_repo: TakingHub, tiny_pipe: StableDiffusionPipeline, saved: Path, tmp_path: Path
) -> None:
    torch.save(tiny_pipe.unet.state_dict(), tmp_path / "unet.bin")
    base_repo.files[REPO, "unet/diffusion_pytorch_model.bin"] = (tmp_path / "unet.bin").read_bytes()
    for name in (UNET, "unet/diffusion_pytorch_model.fp16.safetensors"):
        del base_repo.files[REPO, name]
    assert pulled(tmp_path, erasure=saved).verify_erasure().state.value == "verified"


@pytest.mark.parametrize(
    "name", [UNET, "vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"]
)
def test_a_bases_corrupted_file_is_repaired_once_or_refused(
    base_repo: TakingHub, saved: Path, tmp_path: Path, name: str
) -> None:
    base_repo.spoil = lambda file, data, count: flipped(data) if file == name and count == 1 else data
    assert pulled(tmp_path, erasure=saved).erasures
    assert base_repo.sent.count(name) == 2
    base_repo.spoil = lambda file, data, count: flipped(data) if file == name else data
    loads = (partial(pulled, erasure=saved), lambda folder: load_base_pipeline(REPO, cache_dir=folder))
    for number, load in enumerate(loads):
        with pytest.raises(ArtifactIntegrityError, match="hash that the Hub gave it"):
            load(tmp_path / str(number))


def test_a_silent_hub_leaves_what_is_cached(base_repo: TakingHub, saved: Path, tmp_path: Path) -> None:
    assert pulled(tmp_path, erasure=saved).erasures
    base_repo.down = True
    assert pulled(tmp_path, erasure=saved).erasures


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", UNET])
def test_a_cache_that_is_not_whole_is_refused(
    base_repo: TakingHub, saved: Path, tmp_path: Path, name: str
) -> None:
    pulled(tmp_path, erasure=saved)
    next((tmp_path / "cache").glob(f"*/snapshots/*/{name}")).unlink()
    with pytest.raises(ArtifactNotFoundError, match=REPO):
        pulled(tmp_path, erasure=saved, local_files_only=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_class_name", ["pipeline", "Hostile"]),
        ("unet", ["modeling", "Hostile"]),
        ("unet", ["os", "system"]),
        ("unet", [["diffusers"], "UNet2DConditionModel"]),
        ("../unet", ["diffusers", "UNet2DConditionModel"]),
    ],
)
def test_an_index_that_names_code_is_refused(
    base_repo: TakingHub, saved: Path, tiny_pipe_folder: Path, tmp_path: Path, key: str, value: Any
) -> None:
    content = json.loads((tiny_pipe_folder / "model_index.json").read_text())
    text = json.dumps({**content, key: value})
    base_repo.files[REPO, "model_index.json"] = text.encode()
    local = base_repo.checkout(REPO, tmp_path / "local")
    for source in (REPO, local):
        options = {"cache_dir": tmp_path / "cache"}
        with pytest.raises(ArtifactFormatError, match="names program code of its own"):
            ErasedStableDiffusionPipeline.from_pretrained(source, erasure=saved, **options)
        with pytest.raises(ArtifactFormatError, match="names program code of its own"):
            load_base_pipeline(source, **options)
    assert base_repo.sent == ["model_index.json"]


def cut_off(request: object) -> object:
    raise pytest.importorskip("httpx2").RemoteProtocolError("peer closed connection")


LOADS = {
    "artifact": load_artifact,
    "encoder": RobustEncoder.from_pretrained,
    "pipeline": ErasedStableDiffusionPipeline.from_pretrained,
    "base": load_base_pipeline,
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_what_nobody_knows_is_not_called_missing(
    serve_hub: Callable[[object], None], hub: TakingHub, tmp_path: Path, load: Callable[..., object]
) -> None:
    """Offline, on an error of the Hub, and on a connection that breaks, no file is said to be absent."""
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    told = {}
    with pytest.raises(ArtifactNotFoundError) as caught:
        load(REPO, local_files_only=True, **options)
    told["since this is offline"] = str(caught.value)
    hub.down = True
    with pytest.raises(ArtifactNotFoundError) as caught:
        load(REPO, **options)
    told["did not answer as it should (HfHubHTTPError: Server error '500"] = str(caught.value)
    serve_hub(cut_off)
    huggingface_hub.close_session()
    with pytest.raises(ArtifactNotFoundError) as caught:
        load(REPO, **options)
    told["RemoteProtocolError"] = str(caught.value)
    for words, message in told.items():
        assert words in message
        assert REPO in message
        assert " has no " not in message
        assert "there is no" not in message


def test_the_http_library_is_found_by_the_clients_own_error() -> None:
    assert TRANSPORT_ERROR is pytest.importorskip("httpx2").HTTPError


def test_an_encoders_corrupted_file_is_repaired_once(
    hub: TakingHub, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    erasure = {"method": "advunlearn", "concepts": ["church"], "base_model": "embedded"}
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=erasure)
    robust.save_pretrained(tmp_path / "encoder")
    hub.hold(REPO, tmp_path / "encoder", inside="deep/er/")
    name = "deep/er/model.safetensors"
    place = {"subfolder": "deep/er", "cache_dir": tmp_path / "cache"}
    hub.spoil = lambda file, data, count: flipped(data) if file == name and count == 1 else data
    assert RobustEncoder.from_pretrained(REPO, **place).erasure is not None
    assert hub.sent.count(name) == 2
    hub.spoil = lambda file, data, count: flipped(data)
    with pytest.raises(ArtifactIntegrityError, match="hash that the Hub gave it"):
        RobustEncoder.from_pretrained(REPO, **{**place, "cache_dir": tmp_path / "fresh"})


def test_base_and_artifact_from_one_repository(
    hub: TakingHub, saved: Path, tiny_pipe_folder: Path, tmp_path: Path
) -> None:
    """Stock loading leaves the manifest and its files on the Hub; ours fetches them, at its own commit."""
    hub.hold(REPO, tiny_pipe_folder)
    hub.hold(REPO, saved, inside="erasure/")
    pipe = pulled(tmp_path, erasure=REPO, erasure_subfolder="erasure")
    assert [one.concepts for one in pipe.erasures] == [("church",)]
    assert pipe.verify_erasure().state.value == "verified"


def test_a_trusted_key_reaches_every_artifact(
    hub: TakingHub, saved: Path, erased_repo: TakingHub, tiny_pipe_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    from diffusers_erasure.artifacts import keys
    from diffusers_erasure.artifacts.signing import sign_artifact

    private, public = keys.new_key(tmp_path / "keys" / "signer.pem")
    hub.hold("org/unsigned", saved)
    sign_artifact(saved, keys.read_private_key(private))
    hub.hold("org/signed", saved)
    options = {"erasure": "org/signed", "cache_dir": tmp_path / "cache"}
    load = ErasedStableDiffusionPipeline.from_pretrained
    trust = Trust(public, concepts=("church",))
    assert load(tiny_pipe_folder, **options, trusted_key=trust).erasures
    with pytest.raises(ArtifactFormatError, match="expected a Hub id"):  # its base is a folder of its maker
        load("org/signed", cache_dir=tmp_path / "cache", trusted_key=public)
    with pytest.raises(SignatureError, match="not signed"):
        load(tiny_pipe_folder, **{**options, "erasure": "org/unsigned"}, trusted_key=public)
    with pytest.raises(SignatureError, match="erases church"):
        load(tiny_pipe_folder, **options, trusted_key=Trust(public, concepts=("dog",)))
    with pytest.raises(SignatureError, match="carries no signature"):
        pulled(tmp_path, trusted_key=public)
    assert load_artifact("org/unsigned", cache_dir=tmp_path / "unsigned")
    with pytest.raises(ArtifactNotFoundError, match=r"erasure\.sig .* is not in the local cache"):
        load_artifact(
            "org/unsigned", cache_dir=tmp_path / "unsigned", trusted_key=public, local_files_only=True
        )


def test_a_trusted_key_reaches_an_encoders_artifact(
    hub: TakingHub, tiny_pipe: StableDiffusionPipeline, artifact_of: Any, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    from diffusers_erasure.artifacts import keys
    from diffusers_erasure.artifacts.signing import sign_artifact

    weights = tiny_pipe.text_encoder.state_dict()
    name = next(key for key in weights if key.endswith("fc2.weight"))
    folder = tmp_path / "text"
    save_artifact(artifact_of({"text_encoder": DeltaEdit({name: torch.ones_like(weights[name])})}), folder)
    private, public = keys.new_key(tmp_path / "keys" / "signer.pem")
    hub.hold("org/unsigned", folder)
    sign_artifact(folder, keys.read_private_key(private))
    hub.hold("org/signed", folder)
    erasure = {"method": "advunlearn", "concepts": ["church"], "base_model": "embedded"}
    RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=erasure).save_pretrained(tmp_path / "whole")
    hub.hold("org/whole", tmp_path / "whole")
    options = {"base": tiny_pipe.text_encoder, "cache_dir": tmp_path / "cache"}
    robust = RobustEncoder.from_pretrained("org/signed", trusted_key=public, **options)
    assert robust.erasure is not None
    assert robust.erasure.concepts == ("church",)
    with pytest.raises(SignatureError, match="not signed"):
        RobustEncoder.from_pretrained("org/unsigned", trusted_key=public, **options)
    with pytest.raises(SignatureError, match="erases church"):
        RobustEncoder.from_pretrained("org/signed", trusted_key=Trust(public, concepts=("dog",)), **options)
    del options["base"]
    with pytest.raises(SignatureError, match="only artifacts carry signatures"):
        RobustEncoder.from_pretrained("org/whole", trusted_key=public, **options)
