"""Where commands compute: where they are told, or on the accelerator, and nowhere that is not there."""

from __future__ import annotations

import pytest
import torch

from diffusers_erasure.cli.device import compute_device
from diffusers_erasure.cli.main import main
from diffusers_erasure.errors import ConfigError

COMMANDS = (
    ["generate", "--prompt", "a dog"],
    ["evaluate", "embedded/church-uce"],
    ["attack", "embedded/church-uce"],
    ["reactivate", "embedded/church-uce"],
)


def test_the_accelerator_is_taken_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def there(device: str | None) -> None:
        found = None if device is None else torch.device(device)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *, check_available: found)

    there(None)
    assert compute_device("") == "cpu"
    there("cuda")
    assert compute_device("") == "cuda"
    assert compute_device("cpu") == "cpu"


@pytest.mark.parametrize("asked", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {asked} cannot be computed on: .*; expected cpu"):
        compute_device(asked)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_refuses_it_before_any_work(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--device", "gpu"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--device gpu cannot be computed on" in said
