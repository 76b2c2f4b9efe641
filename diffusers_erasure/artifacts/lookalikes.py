"""What a folder that is no artifact looks like, so that the error can say what to do with it instead."""

from pathlib import Path

from .manifest import MANIFEST_NAME

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHOWN = 5
_KINDS = (
    (
        ("pytorch_lora_weights", "adapter_config.json"),
        "it looks like a LoRA",
        "load it with pipe.load_lora_weights(...)",
    ),
    (
        ("model_index.json",),
        "it looks like a whole pipeline (model_index.json)",
        "load it with ErasedStableDiffusionPipeline.from_pretrained(...), or give the artifact's own folder",
    ),
    (
        ("learned_embeds",),
        "it looks like a textual inversion",
        "load it with pipe.load_textual_inversion(...)",
    ),
    (
        ("config.json",),
        "it looks like a single model (config.json) without a manifest",
        "load a text encoder with RobustEncoder.from_pretrained(...), one that others published without a "
        "manifest with allow_unverified=True",
    ),
)


def looks_like(folder: Path) -> str:
    """The three-part message for a folder without a manifest."""
    start = f"{folder} is no artifact, it has no {MANIFEST_NAME}"
    end = "expected a folder that `save_artifact` or `diffusers-erasure train` wrote"
    if not folder.is_dir():
        return f"there is no folder {folder}; {end}; check the path and subfolder="
    what, repair = _guess(folder)
    return f"{start}: {what}; {end}; {repair}"


def _guess(folder: Path) -> tuple[str, str]:
    """What it is, and what to do."""
    names = {path.name for path in folder.iterdir()}
    if not names:
        return "the folder is empty", "check the path, or train first"
    below = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST_NAME}"))
    if below:
        shown = ", ".join(below[:_SHOWN])
        return (
            f"but there are artifacts below it ({shown})",
            f"give one of them, such as subfolder={below[0]!r}",
        )
    for marks, what, repair in _KINDS:
        if any(name.startswith(marks) for name in names):
            return what, repair
    if any(name.endswith(PICKLES) for name in names):
        return "it holds pickled weights, which are never opened here", "convert them into an artifact first"
    return f"it holds {', '.join(sorted(names)[:_SHOWN])}", "check the path"
