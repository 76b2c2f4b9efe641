"""What is pulled is what was pushed: one commit, every file whole, repaired once or refused, also offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.signature import Trust
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import ArtifactIntegrityError, ArtifactNotFoundError, SignatureError
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
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
    with pytest.raises((ArtifactNotFoundError, OSError), match="safetensors"):
        pulled(tmp_path)
    assert "vae/diffusion_pytorch_model.bin" not in erased_repo.sent


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
    assert load("org/signed", cache_dir=tmp_path / "cache", trusted_key=public).erasures
    with pytest.raises(SignatureError, match="not signed"):
        load(tiny_pipe_folder, **{**options, "erasure": "org/unsigned"}, trusted_key=public)
    with pytest.raises(SignatureError, match="erases church"):
        load(tiny_pipe_folder, **options, trusted_key=Trust(public, concepts=("dog",)))
    with pytest.raises(SignatureError, match="carries no signature"):
        pulled(tmp_path, trusted_key=public)
