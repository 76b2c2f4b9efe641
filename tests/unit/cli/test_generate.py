"""`generate`: pictures as one PNG, with an erasure and beside the base."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

from diffusers_erasure import ErasedStableDiffusionPipeline
from diffusers_erasure.cli.main import main

Captured = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    return main(["generate", *map(str, arguments), "--num_inference_steps", "2", "--cell", "64"])


def test_it_draws_the_model_as_it_is(tiny_pipe_folder: Path, tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "new" / "a.png"
    code = run(
        "--prompt", "a church", "--prompt", "a dog", "--num_images", 2, "-o", output,
        "--pretrained-model-name-or-path", tiny_pipe_folder,
    )  # fmt: skip
    assert code == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    with Image.open(output) as picture:
        assert picture.width > 4 * 64


def test_before_and_after_differ_and_repeat(saved_artifact: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        assert (
            run("--prompt", "a church", "--erasure", saved_artifact, "--compare", "--output", tmp_path / name)
            == 0
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert run("--prompt", "a church", "--erasure", saved_artifact, "--output", tmp_path / "c.png") == 0
    with Image.open(tmp_path / "a.png") as both, Image.open(tmp_path / "c.png") as erased:
        assert both.height > erased.height + 60
        above, below = _cells(both)
        assert ImageChops.difference(above, below).getbbox() is not None


def test_a_pipeline_that_was_saved_erased_is_drawn_and_checked(
    saved_artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "saved"
    ErasedStableDiffusionPipeline.from_pretrained(saved_artifact).save_pretrained(folder)
    drawn = ["--prompt", "a church", "--pretrained_model_name_or_path", folder, "--output"]
    assert run(*drawn, tmp_path / "saved.png") == 0
    assert run("--prompt", "a church", "--erasure", saved_artifact, "--output", tmp_path / "loaded.png") == 0
    with Image.open(tmp_path / "saved.png") as saved, Image.open(tmp_path / "loaded.png") as loaded:
        pictures = [one.crop((one.width - 90, 0, one.width, one.height)) for one in (saved, loaded)]
        assert pictures[0].tobytes() == pictures[1].tobytes()
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 8
    weights.write_bytes(data)
    assert run(*drawn, tmp_path / "altered.png") == 2
    assert not (tmp_path / "altered.png").exists()


def _cells(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The two pictures of a grid with one column, which ends in a margin of 18 pixels."""
    from diffusers_erasure.evaluation.grid import GAP, MARGIN

    left, bottom = picture.width - MARGIN - 64, picture.height - MARGIN - GAP
    boxes = [(left, bottom - 64, left + 64, bottom), (left, bottom - 128 - GAP, left + 64, bottom - 64 - GAP)]
    below, above = (picture.crop(box) for box in boxes)
    return above, below


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no prompt"),
        (("--prompt", "a dog", "--compare"), "--compare was given without an erasure"),
        (("--prompt", "a dog", "--num-images", "0"), "cannot be drawn"),
        (("--prompt", "a dog", "--seed", "-1"), "cannot be drawn"),
        (("--prompt", "a dog", "--erasure", "no/such/folder"), "no/such/folder"),
    ],
)
def test_what_cannot_be_drawn_is_explained(
    arguments: tuple[str, ...], message: str, capsys: Captured
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
