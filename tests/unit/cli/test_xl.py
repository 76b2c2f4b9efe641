"""The commands on an SDXL base: what can erase it does, what cannot says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_erasure.cli import generate, inspect, train, verify
from diffusers_erasure.errors import ConfigError

SHORT = ["--num_templates", "2", "--no_use_synonyms", "--max_retain_prompts", "4"]


def test_uce_trains_and_the_other_commands_take_it(
    tiny_xl_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, base = tmp_path / "church-uce", ["--pretrained_model_name_or_path", str(tiny_xl_folder)]
    arguments = ["uce", "--concept", "church", "--output_dir", str(folder), *base, *SHORT]
    assert train.main(arguments) == 0
    assert inspect.main([str(folder)]) == 0
    assert "church" in capsys.readouterr().out
    assert verify.main([str(folder), *base]) == 0
    assert "verified" in capsys.readouterr().out
    picture = tmp_path / "pictures.png"
    drawing = ["--erasure", str(folder), "--prompt", "a church", "--num_inference_steps", "2", "--compare"]
    assert generate.main([*drawing, *base, "--output", str(picture)]) == 0
    assert picture.is_file()


def test_esd_says_that_it_needs_one_encoder(tiny_xl_folder: Path, tmp_path: Path) -> None:
    arguments = ["esd", "--concept", "church", "--output_dir", str(tmp_path / "church-esd")]
    with pytest.raises(ConfigError, match="StableDiffusionXLPipeline has two text encoders"):
        train.main([*arguments, "--pretrained_model_name_or_path", str(tiny_xl_folder)])
    assert not (tmp_path / "church-esd").exists()
