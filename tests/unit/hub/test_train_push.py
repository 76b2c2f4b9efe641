"""`train --push_to_hub`: refused before training or pushed after saving, and the token is told to nobody."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.cli import train as command
from diffusers_erasure.cli.main import main
from diffusers_erasure.errors import ConfigError, PublishError
from diffusers_erasure.training import method
from diffusers_erasure.training.esd_settings import ESDConfig
from diffusers_erasure.training.uce import UCEConfig
from tests.unit.hub.conftest import TakingHub

REPO, TOKEN = "org/church", "hf_NobodyMaySeeThis"
SHORT = ["--num_templates", "3", "--no_use_synonyms", "--max_retain_prompts", "6"]
PUSH = ["--push_to_hub", "--hub_model_id", REPO, "--hub_token", TOKEN]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))


def uce(base: Path, folder: Path, *more: str) -> list[str]:
    place = ["--output_dir", str(folder), "--pretrained_model_name_or_path", str(base)]
    return ["uce", "--concept", "dog", *place, *SHORT, *more]


def test_what_was_trained_is_pushed_as_it_was_saved(
    hub: TakingHub, tiny_pipe_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "dog"
    assert command.main(uce(tiny_pipe_folder, folder, *PUSH, "--hub_private_repo")) == 0
    assert hub.created[0]["visibility"] == "private"
    found = load_artifact(REPO, cache_dir=tmp_path / "cache")
    assert found.digest == load_artifact(folder).digest
    told = capsys.readouterr().out
    assert told.index("saved") < told.index(f"pushed to {REPO}: https://huggingface.co/{REPO}/commit/")


def test_without_an_id_it_goes_to_the_account(
    hub: TakingHub, tiny_pipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.account = {"name": "someone", "auth": {"accessToken": {"role": "write"}}}
    assert command.main(uce(tiny_pipe_folder, tmp_path / "dog-uce", "--push_to_hub")) == 0
    assert "erasure_config.json" in hub.names("someone/dog-uce")


def test_the_token_is_told_to_nobody(
    hub: TakingHub,
    tiny_pipe_folder: Path,
    tmp_path: Path,
    capsys: Captured,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In files of a run with its log and checkpoints, in what is shown, logged and pushed."""
    caplog.set_level(logging.DEBUG)
    place = ["--output_dir", str(tmp_path / "dog"), "--pretrained_model_name_or_path", str(tiny_pipe_folder)]
    few = ["--max_train_steps", "1", "--num-inference-steps", "2", "--report_to", "jsonl"]
    assert main(["train", "esd", "--concept", "dog", *place, *few, *PUSH]) == 0
    assert (tmp_path / "dog-training" / "checkpoint-1").exists()
    captured = capsys.readouterr()
    assert TOKEN not in captured.out + captured.err + caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    for content in (*(path.read_bytes() for path in written), *hub.files.values()):
        assert TOKEN.encode() not in content


@pytest.mark.parametrize("settings", [UCEConfig, ESDConfig])
def test_settings_do_not_show_the_token(settings: type[Any]) -> None:
    config = settings.parse({"concept": ["dog"], "hub_token": TOKEN, "push_to_hub": True})
    assert config.hub_token == TOKEN
    shown = [repr(config), str(config), f"{config.model_dump()}", config.model_dump_json()]
    records = config.records()
    assert all(TOKEN not in text for text in [*shown, repr(records)])
    flags = {"push_to_hub", "hub_model_id", "hub_private_repo", "hub_token"}
    assert flags <= set(settings.model_fields)
    assert not flags & set(records)


@pytest.mark.parametrize("given", [["--hub_token", TOKEN], [f"--hub-token={TOKEN}"]])
def test_errors_do_not_show_the_token(given: list[str], capsys: Captured) -> None:
    """Those of settings that contradict each other show all values."""
    wrong = ["--preset", "embedded", "--attack_placement", "nowhere"]
    assert main(["train", "advunlearn", "--concept", "dog", *wrong, *given]) != 0
    assert main(["train", "uce", "--concept", "dog", f"--hub_tokn={TOKEN}"]) != 0
    captured = capsys.readouterr()
    assert "--hub_tokn" in captured.err
    assert TOKEN not in captured.out + captured.err
    parsed = command.parse(method("uce"), ["--concept", "dog", *given])
    assert isinstance(parsed, UCEConfig)
    assert parsed.hub_token == TOKEN
    with pytest.raises(ConfigError) as caught:
        UCEConfig.parse({"concept": [], "hub_token": TOKEN})
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--hub_model_id", REPO], "without --push_to_hub"),
        (["--hub_token", TOKEN], "without --push_to_hub"),
        (["--hub_private_repo"], "without --push_to_hub"),
        (["--push_to_hub", "--hub_model_id", "church"], "no Hub id"),
        (["--push_to_hub", "--hub_model_id", "a/b/c"], "no Hub id"),
        (["--push_to_hub", "--hub_model_id", REPO, "--hub_token", "hf_a b"], "the token of 6 characters"),
        (["--push_to_hub", "--hub_token"], "without a value"),
        ([*PUSH, "--report_to", "wandb"], "--report_to wandb"),
    ],
)
def test_flags_that_cannot_be_met(hub: TakingHub, tmp_path: Path, flags: list[str], words: str) -> None:
    """Before anything is loaded: there is no such base."""
    name = "esd" if "--report_to" in flags else "uce"
    place = ["--output_dir", str(tmp_path / "dog"), "--pretrained_model_name_or_path", "no/such-base"]
    with pytest.raises(ConfigError, match=words) as caught:
        command.main([name, "--concept", "dog", *place, *flags])
    assert "expected" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert hub.calls == []


@pytest.mark.parametrize(
    ("account", "flags", "words"),
    [
        ({"name": "me"}, PUSH[:3], "nobody is logged in"),
        (None, PUSH, r"does not take the token \(401\)"),
        ({"name": "me", "auth": {"accessToken": {"role": "read"}}}, PUSH, "token of me can only read"),
    ],
)
def test_a_login_that_cannot_push_is_refused_before_training(
    hub: TakingHub, tmp_path: Path, account: dict[str, Any] | None, flags: list[str], words: str
) -> None:
    hub.account = account
    with pytest.raises(PublishError, match=words) as caught:
        command.main(uce(Path("no/such-base"), tmp_path / "dog", *flags))
    assert TOKEN not in str(caught.value)
    assert set(hub.calls) <= {"GET /api/whoami-v2"}


def test_no_connection_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set"):
        command.main(uce(Path("no/such-base"), tmp_path / "dog", *PUSH))


def test_a_push_that_fails_leaves_the_artifact(
    hub: TakingHub, tiny_pipe_folder: Path, tmp_path: Path
) -> None:
    hub.meanwhile = lambda: hub.heads.update(main="b" * 40)
    folder = tmp_path / "dog"
    with pytest.raises(
        PublishError, match=r"has moved.*is saved in .*diffusers-erasure push .*dog org/church"
    ):
        command.main(uce(tiny_pipe_folder, folder, *PUSH))
    assert load_artifact(folder)


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_asks_and_pushes(
    hub: TakingHub,
    tiny_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: bool,
) -> None:
    state = SimpleNamespace(device="cpu", is_main_process=first, num_processes=1)
    monkeypatch.setattr("accelerate.PartialState", lambda: state)
    monkeypatch.setattr(command, "_load_base", lambda config: SimpleNamespace(to=lambda device: None))
    spec: Any = SimpleNamespace(name="esd", train=lambda *args, **options: tiny_artifact)
    config = ESDConfig.parse(
        {"concept": ["church"], "push_to_hub": True, "hub_model_id": REPO, "hub_token": TOKEN}
    )
    command.train(spec, config, tmp_path / "church")
    assert bool(hub.calls) == first
    assert (tmp_path / "church").exists() == first
    assert len(hub.commits) == int(first)
