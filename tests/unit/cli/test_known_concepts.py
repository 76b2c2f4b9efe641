"""Concepts that nobody here can judge: told at once, by every command that asks judges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.manifest import ConceptRecord
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.cli.main import main
from diffusers_erasure.pipelines import base

Captured = pytest.CaptureFixture[str]
UNKNOWN = "'zeppelin' is not in the vocabulary of the embedded pipeline"


@pytest.fixture
def zeppelin(tiny_artifact: Artifact, tmp_path: Path) -> Path:
    """An artifact whose weights are gone: only its manifest can be read."""
    concepts = (ConceptRecord(name="zeppelin"),)
    manifest = tiny_artifact.manifest.model_copy(update={"concepts": concepts})
    folder = save_artifact(replace(tiny_artifact, manifest=manifest), tmp_path / "zeppelin-uce")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    return folder


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("evaluate", "--prompts FILE --judge FAMILY:ID"),
        ("attack", "--judge FAMILY:ID"),
        ("reactivate", "--judge FAMILY:ID"),
    ],
)
def test_an_erased_concept_is_refused_by_the_manifest_alone(
    command: str, instead: str, zeppelin: Path, capsys: Captured
) -> None:
    assert main([command, str(zeppelin)]) == 2
    error = capsys.readouterr().err
    assert UNKNOWN in error
    assert f"`diffusers-erasure {command} {zeppelin} {instead}`" in error
    assert "are kept" not in error


def test_a_concept_that_is_named_is_refused_before_the_pipeline_is_loaded(
    saved_artifact: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "load_base_pipeline", lambda *_: pytest.fail("the base was loaded"))
    assert main(["attack", str(saved_artifact), "--concept", "zeppelin"]) == 2
    assert UNKNOWN in capsys.readouterr().err


def test_another_judge_is_believed_to_see_it(zeppelin: Path, capsys: Captured) -> None:
    """What is wrong then is that the weights are gone."""
    for command in ("attack", "reactivate"):
        assert main([command, str(zeppelin), "--judge", "clip:x/y#a zeppelin"]) == 2
        error = capsys.readouterr().err
        assert "vocabulary" not in error
        assert "safetensors" in error
