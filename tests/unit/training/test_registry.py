"""A method is one file: dropped into the folder, or named by another package's entry point."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

import diffusers_erasure.training
from diffusers_erasure import discovery
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.cli import train as command
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.training import TrainingConfig, erasure_method, method, methods, registry

SOURCE = '''
"""A method that another package brings."""

from diffusers_erasure.training import TrainingConfig, erasure_method
from diffusers_erasure.settings import setting


class MiniConfig(TrainingConfig):
    """Settings of mini."""

    strength: float = setting(0.5, "how strong it is", ge=0)


@erasure_method(name="NAME", config=MiniConfig, version="7")
def train_mini(pipe, config, *, base, progress=None):
    """Do very little.

    And say so.
    """
    raise NotImplementedError
'''


@pytest.fixture
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the registry look again, and forget afterwards what a test added."""
    methods()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    registry._discover.cache_clear()
    yield
    registry._discover.cache_clear()


def test_uce_is_registered_by_being_there() -> None:
    spec = methods()["uce"]
    assert spec.summary.startswith("Closed-form edit")
    assert method("uce") is spec


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"no erasure method 'ucee'; known methods are .*uce.*did you mean 'uce'"
    ):
        method("ucee")


def test_one_file_in_the_folder_is_a_method(
    fresh_registry: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mini_folder.py").write_text(SOURCE.replace("NAME", "mini-folder"), encoding="utf-8")
    folders = [*diffusers_erasure.training.__path__, str(tmp_path)]
    monkeypatch.setattr(diffusers_erasure.training, "__path__", folders)
    assert methods()["mini-folder"].version == "7"
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "mini-folder" in shown
    assert "Do very little" in shown
    assert "uce" in shown
    assert command.main(["mini-folder", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--strength" in shown
    assert "how strong it is" in shown
    sys.modules.pop("diffusers_erasure.training.mini_folder")


def test_an_entry_point_is_a_method_and_a_broken_one_is_said(
    fresh_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mini_package.py").write_text(SOURCE.replace("NAME", "mini-package"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mini_broken.py").write_text("def (", encoding="utf-8")
    (tmp_path / "mini_foreign.py").write_text(
        SOURCE.replace("NAME", "mini-foreign").replace("MiniConfig(TrainingConfig)", "MiniConfig"),
        encoding="utf-8",
    )
    group = registry.ENTRY_POINT_GROUP
    modules = {
        "gone": "no_such_package",
        "broken": "mini_broken",
        "nameless": "mini_package:nothing",
        "foreign": "mini_foreign",
        "mini-package": "mini_package",
    }
    found = EntryPoints([EntryPoint(name, module, group) for name, module in modules.items()])
    monkeypatch.setattr(discovery, "entry_points", lambda *, group: found.select(group=group))
    with caplog.at_level(logging.WARNING):
        assert "mini-package" in methods()
    for name in ("gone", "broken", "nameless", "foreign"):
        assert f"{name!r}" in caplog.text
    assert "no_such_package" in caplog.text
    assert "SyntaxError" in caplog.text
    assert "mini-foreign" not in methods()
    sys.modules.pop("mini_package")


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("uce", {"retain_prompts": "none", "retain": ["cat"]}),
        ("esd", {"max_train_steps": 1, "num_inference_steps": 2, "pretrained_model_name_or_path": "tiny"}),
    ],
)
def test_an_artifact_says_of_which_version_of_its_method_it_is(
    fresh_registry: None, tiny_pipe: StableDiffusionPipeline, name: str, own: dict[str, object]
) -> None:
    spec = method(name)
    erasure_method(name=name, config=spec.config, version="7")(spec.train)
    settings = spec.config.parse({"concept": ["dog"], "num_templates": 1, "use_synonyms": False, **own})
    assert spec.train(tiny_pipe, settings, base=BaseModelRef(id="tiny")).manifest.method_version == "7"


def test_a_name_belongs_to_one_method(fresh_registry: None) -> None:
    def train_other(pipe: object, config: object, *, base: object, progress: object = None) -> None:
        """Take uce's name."""

    with pytest.raises(
        ConfigError, match=r"two erasure methods are named 'uce', in .*\.uce and in .*test_registry"
    ):
        erasure_method(name="uce", config=TrainingConfig)(train_other)  # type: ignore[type-var]


def test_settings_must_be_ours(fresh_registry: None) -> None:
    def train_other(pipe: object, config: object, *, base: object, progress: object = None) -> None:
        """Bring foreign settings."""

    with pytest.raises(ConfigError, match="a subclass of TrainingConfig is needed"):
        erasure_method(name="other", config=dict)(train_other)  # type: ignore[arg-type, type-var]
