"""Where the embedded pipeline lies, and what is said when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

import diffusers_erasure
from diffusers_erasure import embedded
from diffusers_erasure.errors import ArtifactNotFoundError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is taken for the package's model folder; not there yet."""
    monkeypatch.setattr(embedded, "embedded_folder", lambda: tmp_path / "model")
    return tmp_path / "model"


def test_the_model_lies_in_the_package() -> None:
    package = Path(diffusers_erasure.__file__).parent
    assert embedded.embedded_folder() == package / "embedded" / "model"


@pytest.mark.parametrize("name", ["someone/their-model", "./embedded", "Embedded", ""])
def test_other_names_stay_as_they_are(folder: Path, name: str) -> None:
    assert embedded.resolve_model(name) == name


def test_a_missing_model_is_said_to_be_missing(folder: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match=r"expected model_index\.json.*install the package again"):
        embedded.resolve_model("embedded")
    with pytest.raises(ArtifactNotFoundError, match="embedded pipeline is missing"):
        embedded.embedded_pipeline()


def test_half_a_model_is_a_missing_model(folder: Path) -> None:
    (folder / "unet").mkdir(parents=True)
    with pytest.raises(ArtifactNotFoundError):
        embedded.resolve_model("embedded")


def test_the_word_stands_for_the_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    assert embedded.resolve_model(embedded.EMBEDDED_MODEL_ID) == str(folder)


def test_the_pipeline_is_loaded_from_there_in_the_dtype_asked_for(
    tiny_pipe_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(embedded, "embedded_folder", lambda: tiny_pipe_folder)
    assert embedded.embedded_pipeline().unet.dtype == torch.float32
    assert embedded.embedded_pipeline(dtype=torch.bfloat16).text_encoder.dtype == torch.bfloat16
