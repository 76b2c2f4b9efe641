"""The look at pictures while a pipeline draws: it goes when the last call ends, in whatever thread."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffusers_erasure.errors import ErasureNotActiveError
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
from diffusers_erasure.pipelines.callbacks import watched_pictures

Make = Callable[..., ErasedStableDiffusionPipeline]


def test_two_threads_put_the_processor_back(make_erased: Make, unet_artifact: Path) -> None:
    pipe = make_erased(unet_artifact)
    stock = pipe.image_processor
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def overlap() -> None:
        with watched_pictures(pipe):
            second_is_in.set()
            assert first_is_out.wait(timeout=60)
            broken = torch.full((1, 3, 4, 4), torch.nan)
            with pytest.raises(ErasureNotActiveError, match="not finite"):
                pipe.image_processor.postprocess(broken)
            done.append(True)

    done: list[bool] = []
    second = threading.Thread(target=overlap)
    with watched_pictures(pipe):
        second.start()
        assert second_is_in.wait(timeout=60)
        assert pipe.image_processor is not stock
    first_is_out.set()
    second.join()
    assert done
    assert pipe.image_processor is stock


def test_another_processor_that_was_put_in_meanwhile_stays(make_erased: Make, unet_artifact: Path) -> None:
    pipe, other = make_erased(unet_artifact), object()
    with watched_pictures(pipe):
        pipe.image_processor = other
    assert pipe.image_processor is other
