"""Pushing a pipeline: what cannot be pushed is refused before it is saved, and diffusers' calls are taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusers_erasure.artifacts.push_plan import PushOptions, PushPlan
from diffusers_erasure.errors import ConfigError, ErasureRequiredError
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline, publishing

Make = Callable[..., ErasedStableDiffusionPipeline]


class Published:
    """What `publish` was asked for, in place of the Hub's answer."""

    url = "https://example.org/commit"

    def __init__(self, plan: PushPlan, options: PushOptions) -> None:
        self.repo_id, self.options = plan.repo_id, options
        self.names = [file.path for file in plan.files]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Published]:
    """Collects pushes instead of uploading."""
    found: list[Published] = []

    def publish(plan: PushPlan, options: PushOptions) -> Published:
        found.append(Published(plan, options))
        return found[-1]

    monkeypatch.setattr(publishing, "publish", publish)
    return found


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "without repo_id; .*repo_id='organisation/name'"),
        ({"repo_id": "pipe"}, "'pipe' is no Hub id"),
        ({"repo_id": "me/pipe", "surprise": 1}, "unknown argument surprise"),
        ({"repo_id": "me/pipe", "subfolder": "deep"}, "from the root"),
    ],
)
def test_where_to_push_is_checked_before_saving(
    make_erased: Make,
    unet_artifact: Path,
    tmp_path: Path,
    published: list[Published],
    options: dict[str, Any],
    fault: str,
) -> None:
    with pytest.raises(ConfigError, match=fault):
        make_erased(unet_artifact).save_pretrained(tmp_path / "pipe", push_to_hub=True, **options)
    with pytest.raises(ErasureRequiredError, match="only erased"):
        make_erased(require_erasure=False).save_pretrained(
            tmp_path / "pipe", push_to_hub=True, repo_id="me/pipe"
        )
    assert not (tmp_path / "pipe").exists()
    assert not published


def test_saving_and_pushing(
    make_erased: Make, unet_artifact: Path, tmp_path: Path, published: list[Published]
) -> None:
    make_erased(unet_artifact).save_pretrained(
        tmp_path / "pipe", push_to_hub=True, repo_id="me/pipe", variant="fp16", private=True
    )
    assert [push.repo_id for push in published] == ["me/pipe"]
    assert published[0].options == PushOptions(private=True)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in published[0].names
    assert (tmp_path / "pipe" / "model_index.json").is_file()


def test_the_arguments_that_diffusers_takes_by_place(
    make_erased: Make, unet_artifact: Path, published: list[Published]
) -> None:
    pipe = make_erased(unet_artifact)
    assert pipe.push_to_hub("me/pipe", "a message", True, "hf_token", True, True, None) == Published.url
    wanted = PushOptions(commit_message="a message", private=True, token="hf_token", create_pr=True)
    assert published[0].options == wanted
    with pytest.raises(ConfigError, match="pickles"):
        pipe.push_to_hub("me/pipe", safe_serialization=False)
