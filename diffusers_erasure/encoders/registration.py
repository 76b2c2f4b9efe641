"""What transformers and diffusers have to be told about our text encoders. Run when this room is imported.

Both libraries look classes up by *name* in tables of their own:

- transformers renames the keys of published text encoder files for the class name "CLIPTextModel" only;
  under any other name such a file loads as random weights with a log line;
- diffusers reloads a component that a stock pipeline recorded as ``["diffusers_erasure", "RobustEncoder"]``
  only if its table of libraries lists ours and the library exposes the base class by name.

The tables are not public API. Every write is repeatable, and a test guards each, so that a new version of
either library that moves one is noticed.
"""

from __future__ import annotations

import sys

from transformers import PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

PACKAGE = "diffusers_erasure"


def register_key_renaming(class_name: str, *, stock_name: str) -> None:
    """Let transformers rename keys for one of our classes exactly as for its stock parent."""
    mapping = get_checkpoint_conversion_mapping(stock_name)  # type: ignore[no-untyped-call]
    if mapping is not None:
        register_checkpoint_conversion_mapping(class_name, mapping, overwrite=True)


def register_loadable_library() -> None:
    """Let diffusers load components that a pipeline recorded under this package's name."""
    from diffusers.pipelines.pipeline_loading_utils import ALL_IMPORTABLE_CLASSES, LOADABLE_CLASSES

    methods = {"PreTrainedModel": ["save_pretrained", "from_pretrained"]}
    LOADABLE_CLASSES[PACKAGE] = methods
    ALL_IMPORTABLE_CLASSES.update(methods)
    vars(sys.modules[PACKAGE])["PreTrainedModel"] = PreTrainedModel


def register_encoders(*classes: type[PreTrainedModel]) -> None:
    """Everything that our text encoders need to be found; does nothing new when called again.

    Args:
        classes: The encoders; each has its stock class among its parents, which names the key renaming.
    """
    for encoder in classes:
        stock = next(parent for parent in encoder.__mro__ if parent.__module__.startswith("transformers."))
        register_key_renaming(encoder.__name__, stock_name=stock.__name__)
        vars(sys.modules[PACKAGE])[encoder.__name__] = encoder
    register_loadable_library()
