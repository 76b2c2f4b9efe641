"""`generate`: pictures as one PNG, with an erasure and beside the base."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

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
