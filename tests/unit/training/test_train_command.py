"""`diffusers-erasure train`, called in the process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffusers_erasure.artifacts.manifest import parse_manifest
from diffusers_erasure.cli import train as command
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.training import method
from diffusers_erasure.training.uce import UCEConfig

SHORT = ["--num_templates", "3", "--no_use_synonyms", "--max_retain_prompts", "6"]


def test_it_writes_an_artifact_and_says_what_came_of_it(
    tiny_pipe_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dog"
    arguments = ["uce", "--concept", "dog", "--output_dir", str(folder), *SHORT]
    assert command.main([*arguments, "--pretrained_model_name_or_path", str(tiny_pipe_folder)]) == 0
    manifest = parse_manifest((folder / "erasure_config.json").read_bytes(), origin="test")
    assert manifest.method == "uce"
    assert [concept.name for concept in manifest.concepts] == ["dog"]
    assert manifest.base.id == tiny_pipe_folder.name
    shown = capsys.readouterr().out
    for word in ("dog → cat", "missing change", "seconds", "saved"):
        assert word in shown
    assert re.search(r"retained states +\d+ *$", shown, re.MULTILINE)
    assert re.search(r"missing change +[\d.e-]+ % of what the mapped states were to change", shown)


def test_an_existing_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    arguments = ["uce", "--concept", "dog", "--output_dir", str(tmp_path)]
    (tmp_path / "erasure_config.json").touch()
    with pytest.raises(ConfigError, match="exists already"):
        command.main([*arguments, "--pretrained_model_name_or_path", "no/such-model"])


def test_dashes_and_underscores_are_alike() -> None:
    spec = method("uce")
    first = command.parse(spec, ["--concept", "dog", "--preserve-scale", "2", "--no-use-synonyms"])
    second = command.parse(spec, ["--concept=dog", "--preserve_scale=2", "--no_use_synonyms"])
    assert first == second == UCEConfig(concept=("dog",), preserve_scale=2.0, use_synonyms=False)


def test_a_choice_is_written_as_the_settings_write_it() -> None:
    spec = method("advunlearn")
    config = command.parse(spec, ["--concept", "dog", "--attack_placement", "replace"])
    assert config == spec.config.parse(
        {"concept": ["dog"], "preset": "embedded", "attack_placement": "replace"}
    )


def test_concepts_and_anchors_repeat() -> None:
    flags = ["--concept", "van gogh", "--concept", "dog", "--anchor", "", "--anchor", "cat"]
    config = command.parse(method("uce"), flags)
    assert isinstance(config, UCEConfig)
    assert config.concept == ("van gogh", "dog")
    assert config.anchor == ("", "cat")


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["uce", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in UCEConfig.model_fields)


def test_without_a_method_the_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2
    assert "uce" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["uce"], "no concept is named"),
        (
            ["uce", "--concept", "dog", "--rigde", "1"],
            "no setting '--rigde'; known settings are .*did you mean 'ridge'",
        ),
        (["nothing", "--concept", "dog"], "no erasure method 'nothing'"),
    ],
)
def test_faults_are_config_errors(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command.main(flags)


def test_a_value_that_cannot_be_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["uce", "--concept", "dog", "--ridge", "-1"]) == 2
    assert "ridge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("concepts", "folder"),
    [
        (("church",), "outputs/church-uce"),
        (("Van Gogh", "dog"), "outputs/van-gogh-dog-uce"),
        (("../../etc",), "outputs/-..-etc-uce"),
    ],
)
def test_the_default_folder_is_named_after_the_concepts(concepts: tuple[str, ...], folder: str) -> None:
    assert command.default_folder(UCEConfig(concept=concepts), method("uce")) == Path(folder)
