"""What every test may use: a tiny, real Stable Diffusion pipeline that needs no download.

The components are the real classes at toy size with random weights, so that a test exercises the code that
users run. Nothing is read from the network: `HF_HUB_OFFLINE` is set before any library is imported. Numbers
come from a fixed seed and a fixed thread count, so a failure can be repeated.

Random weights prove plumbing, not meaning: a test about what words *mean* belongs to `tests/integration`,
which draws with the embedded pipeline.
"""

from __future__ import annotations

import functools
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from diffusers_erasure.artifacts import Artifact

REPOSITORY = Path(__file__).resolve().parent.parent
TINY_TOKENS = 24
"""Prompt length of the tiny pipeline: unlike 77 on purpose, so that a hard-coded 77 is noticed."""
TINY_WIDTH = 8


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the working tree: where `README.md` and `pyproject.toml` lie."""
    return REPOSITORY


@pytest.fixture(scope="session", autouse=True)
def _fixed_threads() -> None:
    """Keep sums in one order: the same thread count wherever the tests run."""
    import torch

    torch.set_num_threads(1)


def tiny_tokenizer() -> CLIPTokenizer:
    """Real tokenizer whose tokens are single characters: "dog" is three tokens, ``d o g</w>``."""
    from transformers import CLIPTokenizer

    from tests.tiny_parts import END, START

    characters = string.ascii_lowercase + string.digits + ",.-'"
    words = [*characters, *(f"{character}</w>" for character in characters), START, END]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=TINY_TOKENS
    )


def tiny_text_encoder(tokenizer: CLIPTokenizer, *, width: int = TINY_WIDTH) -> CLIPTextModel:
    """Real two-layer text encoder; weights come from torch's global generator."""
    from transformers import CLIPTextModel

    from tests.tiny_parts import tiny_text_config

    return CLIPTextModel(tiny_text_config(tokenizer, width=width, layers=2)).eval()


def _make_words_matter(unet: UNet2DConditionModel) -> None:
    """Turn up the cross-attention: at its random scale a prompt hardly moves a picture."""
    import torch

    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".attn2." in name and name.endswith("weight"):
                weight.mul_(4)


def build_tiny_pipeline(*, seed: int = 0, width: int = TINY_WIDTH) -> StableDiffusionPipeline:
    """Stock pipeline of real classes with some 30 thousand random parameters, for 16x16 pictures.

    Args:
        seed: Another seed gives another "base model" of the same shapes.
        width: Text width; another width gives a base model that artifacts do not fit.
    """
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    from tests.tiny_parts import IMAGE_SIZE, tiny_vae

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = tiny_text_encoder(tokenizer, width=width)
        unet = UNet2DConditionModel(
            sample_size=IMAGE_SIZE // 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=2,
            norm_num_groups=4,
        ).eval()
        _make_words_matter(unet)
        vae = tiny_vae()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def copy_pipeline(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """New pipeline of the same class whose components share nothing with the given one."""
    components = {name: copy.deepcopy(component) for name, component in pipeline.components.items()}
    duplicate = type(pipeline)(**components, requires_safety_checker=False)
    duplicate.set_progress_bar_config(disable=True)
    return duplicate


@pytest.fixture(scope="session")
def tiny_pipeline() -> StableDiffusionPipeline:
    """The tiny pipeline, built once. Read it, never change it; `tiny_pipe` is yours to change."""
    return build_tiny_pipeline()


@pytest.fixture
def tiny_pipe(tiny_pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A tiny pipeline of this test's own."""
    return copy_pipeline(tiny_pipeline)


@pytest.fixture
def make_tiny_pipe() -> Callable[..., StableDiffusionPipeline]:
    """Builder of further tiny pipelines: `make_tiny_pipe(seed=1)`, `make_tiny_pipe(width=12)`."""
    return build_tiny_pipeline


@pytest.fixture(scope="session")
def tiny_pipe_folder(
    tiny_pipeline: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny pipeline as `save_pretrained` writes it. Read it, never change it."""
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    copy_pipeline(tiny_pipeline).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_xl() -> StableDiffusionXLPipeline:
    """A tiny SDXL pipeline of this test's own; see `tests/tiny_xl.py`."""
    from tests.tiny_xl import build_tiny_xl

    return build_tiny_xl()


@pytest.fixture(scope="session")
def tiny_xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny SDXL pipeline as `save_pretrained` writes it. Read it, never change it."""
    from tests.tiny_xl import build_tiny_xl

    folder = tmp_path_factory.mktemp("tiny") / "xl"
    build_tiny_xl().save_pretrained(folder)
    return folder


@pytest.fixture
def serve_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Function that puts a handler of requests in the place of the Hub, for this test."""
    import huggingface_hub
    from huggingface_hub import constants

    httpx = pytest.importorskip("httpx2")

    def serve(handler: Any) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(handler)))

    yield serve
    huggingface_hub.set_client_factory(httpx.Client)
    huggingface_hub.close_session()


@pytest.fixture
def artifact_of(tiny_pipe: StableDiffusionPipeline, tiny_pipe_folder: Path) -> Callable[..., Artifact]:
    """Function from edits by component to an erasure of "church" from the tiny pipeline."""
    from diffusers_erasure.artifacts import BaseModelRef, build_artifact
    from diffusers_erasure.concepts import resolve_concepts

    return functools.partial(
        build_artifact,
        tiny_pipe,
        method="uce",
        method_version="1",
        settings={},
        concepts=resolve_concepts(["church"]),
        base=BaseModelRef(id=str(tiny_pipe_folder)),
        seed=0,
        steps=0,
        canary_prompts=["a church"],
    )


@pytest.fixture
def tiny_artifact(tiny_pipe: StableDiffusionPipeline, artifact_of: Callable[..., Artifact]) -> Artifact:
    """An erasure of "church" from the tiny pipeline: random changes of every cross-attention value matrix."""
    import torch

    from diffusers_erasure.artifacts import DeltaEdit

    generator = torch.Generator().manual_seed(0)
    deltas = {
        key: torch.randn(value.shape, generator=generator)
        for key, value in tiny_pipe.unet.state_dict().items()
        if "attn2.to_v" in key
    }
    return artifact_of({"unet": DeltaEdit(deltas)})


@pytest.fixture
def draw() -> Callable[..., torch.Tensor]:
    """Function that draws with a seed: `draw(pipe, "dog")` gives `(1, 3, height, width)` in [0, 1]."""
    import torch

    def draw_pictures(
        pipeline: StableDiffusionPipeline,
        prompt: str | list[str] | None,
        *,
        seed: int = 0,
        **arguments: object,
    ) -> torch.Tensor:
        options: dict[str, object] = {"num_inference_steps": 3, "guidance_scale": 4.0, **arguments}
        generator = torch.Generator().manual_seed(seed)
        pictures = pipeline(prompt, generator=generator, output_type="pt", **options).images
        assert isinstance(pictures, torch.Tensor)
        return pictures

    return draw_pictures
