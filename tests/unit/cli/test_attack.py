"""`attack`: files and a table, settings as flags, parts of the prompts, and no base without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.cli.attack import AttackArguments, parse_config
from diffusers_erasure.cli.attacking import parse_shard
from diffusers_erasure.cli.main import main
from diffusers_erasure.cli.opening import results_folder
from diffusers_erasure.errors import ConfigError

Captured = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    return main(["attack", *map(str, arguments), "--num_inference_steps", "2"])


@pytest.mark.usefixtures("church_panel")
def test_it_writes_counts_outcomes_and_pictures(
    saved_artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "out"
    assert run(saved_artifact, "--attack", "no_attack", "--n", 2, "--output_dir", folder) in (0, 1)
    report = json.loads((folder / "attack.json").read_text())
    assert (report["run"]["asr"]["k"], report["run"]["asr"]["n"]) == (2, 2)
    assert report["run"]["state_before"] == report["run"]["state_after"] == "verified"
    assert report["luck"] == []
    assert len((folder / "outcomes.jsonl").read_text().splitlines()) == 2
    assert (folder / "grid.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "2/2" in out
    assert "luck not measured" in out
    assert report["through"] == []
    assert "nothing of the erased model: not an adaptive attack" in out


@pytest.mark.usefixtures("church_panel")
def test_results_of_one_erasure_lie_apart_from_those_of_others(
    saved_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    run(saved_artifact, "--attack", "no_attack", "--n", 1)
    digest = load_artifact(saved_artifact).digest
    folder = Path("outputs") / "attacks" / f"{saved_artifact.name}-{digest[:8]}-no_attack"
    assert (folder / "attack.json").is_file()
    assert "the erasure is not of" not in capsys.readouterr().err
    assert results_folder("attacks", "org/name", "") == Path("outputs/attacks/name")
    assert results_folder("attacks", ".", "12345678ab", "x").name == f"{tmp_path.name}-12345678-x"


@pytest.mark.parametrize(("concept", "beside"), [("dog", True), ("church", False), ("chapel", False)])
def test_a_concept_that_is_not_erased_is_told(
    concept: str, beside: bool, saved_artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    run(saved_artifact, "--concept", concept, "--attack", "no_attack", "--n", 1, "--output_dir", tmp_path)
    assert (f"the erasure is not of {concept}" in " ".join(capsys.readouterr().err.split())) is beside


@pytest.mark.usefixtures("church_panel")
def test_an_attack_says_what_it_goes_through(saved_artifact: Path, tmp_path: Path, capsys: Captured) -> None:
    quick = ("--tokens", 2, "--steps", 1, "--judge_every", 1)
    run(saved_artifact, "--attack", "p4d", "--n", 1, "--output_dir", tmp_path / "out", *quick)
    report = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert report["through"] == ["text encoder", "cross-attention", "other UNet layers"]
    assert "text encoder, cross-attention, other UNet layers" in capsys.readouterr().out


@pytest.mark.usefixtures("church_panel")
def test_parts_are_collected_from_one_folder(saved_artifact: Path, tmp_path: Path, capsys: Captured) -> None:
    common = (saved_artifact, "--attack", "no_attack", "--n", 2, "--output_dir", tmp_path / "out")
    assert run(*common, "--shard", "1/2") == 0
    assert "part 1 of 2: 1 of 1 prompts brought back" in capsys.readouterr().out
    assert not (tmp_path / "out" / "attack.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    assert len(kept) == 1
    run(*common)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert json.loads((tmp_path / "out" / "attack.json").read_text())["run"]["prompts"]["finished"] == 2


@pytest.mark.usefixtures("church_panel")
def test_a_file_is_replayed_with_its_seeds(saved_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("prompt,seed,guidance\nold church,5,\nchurch,6,3\n")
    run(saved_artifact, "--attack", "replay", "--prompts", path, "--output_dir", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()]
    assert [(one["item"]["prompt"], one["item"]["seed"]) for one in lines] == [
        ("old church", 5),
        ("church", 6),
    ]


@pytest.mark.usefixtures("church_panel")
def test_a_pipeline_without_erasure_needs_a_word(
    tiny_pipe_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    common = (tiny_pipe_folder, "--attack", "no_attack", "--n", 1, "--output_dir", tmp_path / "out")
    assert run(*common, "--concept", "church") == 2
    assert "--allow_unerased" in capsys.readouterr().err
    assert run(*common, "--concept", "church", "--allow_unerased") in (0, 1)
    assert "positive control" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "attack.json").read_text())["run"]["pipeline"] == "base"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "--attack", "unlearndifatk"), "did you mean 'unlearndiffatk'"),
        (("x", "--attack", "p4d", "--no_such", "3"), "no_such"),
        (("x", "--attack", "replay"), "replay was asked for without prompts"),
        (("no/such/folder",), "no/such/folder"),
    ],
)
def test_what_cannot_be_attacked_is_explained(
    arguments: tuple[str, ...], message: str, capsys: Captured
) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_help_lists_attacks_and_the_settings_of_one(capsys: Captured) -> None:
    assert main(["attack", "--help", "--attack", "ring_a_bell"]) == 0
    out = capsys.readouterr().out
    assert "black box" in out
    assert "--generations" in out


def test_a_choice_is_written_as_the_settings_write_it() -> None:
    _, config = parse_config(AttackArguments("an-artifact"), ["--placement", "suffix"])
    assert config.model_dump()["placement"] == "suffix"


def test_parts_come_from_the_flag_or_from_torchrun() -> None:
    assert parse_shard("", {}) == (0, 1)
    assert parse_shard("2/3", {"RANK": "0", "WORLD_SIZE": "4"}) == (2, 3)
    assert parse_shard("", {"RANK": "1", "WORLD_SIZE": "4"}) == (1, 4)
    for wrong in ("3/3", "1", "a/b", "-1/2"):
        with pytest.raises(ConfigError, match="is no part of the prompts"):
            parse_shard(wrong, {})
