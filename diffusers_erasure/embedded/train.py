"""Train the embedded pipeline from nothing.

Run `python -m diffusers_erasure.embedded.train --work_dir runs/embedded`. Two cores are used best by two
processes: `torchrun --nproc_per_node 2 -m diffusers_erasure.embedded.train ...`. Every stage keeps what it
made in the working folder; a run that was stopped goes on where it was.
"""

import argparse
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_erasure.embedded.judges import JUDGE_LABELS
from diffusers_erasure.embedded.recipe.artwork import Family, fetch_artwork
from diffusers_erasure.embedded.recipe.dataset import Scenes, build_art, build_other, build_scenes
from diffusers_erasure.embedded.recipe.diffusion import train_diffusion
from diffusers_erasure.embedded.recipe.judges import train_judge
from diffusers_erasure.embedded.recipe.loop import World
from diffusers_erasure.embedded.recipe.pack import pack_judge, pack_pipeline, ship
from diffusers_erasure.embedded.recipe.text import train_text_encoder
from diffusers_erasure.embedded.recipe.tokenizer import train_tokenizer
from diffusers_erasure.embedded.recipe.vae import decode, encode, train_vae

STAGES = ("data", "vae", "latents", "judges", "text", "diffusion", "pack")
_SEED = 0
_DECODED = 3
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workshop:
    """The working folder and what the stages find in it."""

    folder: Path
    world: World

    @cached_property
    def artwork(self) -> dict[str, Path]:
        """The unpacked package of each family."""
        return fetch_artwork(self.folder / "artwork")

    @cached_property
    def scenes(self) -> Scenes:
        """The pictures of the vocabulary."""
        return build_scenes(self.artwork, self.folder / "data", seed=_SEED, progress=_log)

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The trained autoencoder."""
        return AutoencoderKL.from_pretrained(self.folder / "vae" / "final").eval()

    @cached_property
    def latents(self) -> Tensor:
        """Scaled latents of the scenes, `(count, 4, 16, 16)`."""
        return load_file(self.folder / "data" / "latents.safetensors")["latents"]

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer, learned once and then kept: the text encoder depends on its ids."""
        folder = self.folder / "tokenizer"
        if self.world.leads and not folder.exists():
            train_tokenizer(
                self.scenes.scenes, Family(self.artwork["noto"]).names, seed=_SEED
            ).save_pretrained(folder)
        self.world.wait()
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
        return tokenizer

    def make_data(self) -> None:
        """Download and draw everything."""
        if self.world.leads:
            build_art(self.artwork, self.folder / "data", seed=_SEED, progress=_log)
            build_other(self.artwork, self.folder / "data", seed=_SEED, progress=_log)
            logger.info("%d scenes", len(self.scenes.scenes))
        self.world.wait()

    def make_vae(self) -> None:
        """Train the autoencoder."""
        art, _ = build_art(self.artwork, self.folder / "data", seed=_SEED, progress=_log)
        vae = train_vae(self.scenes.pictures, art, folder=self.folder, world=self.world)
        if self.world.leads:
            vae.save_pretrained(self.folder / "vae" / "final")
        self.world.wait()

    def make_latents(self) -> None:
        """Encode every scene, and decode every third of them again for the judges; each process its share."""
        size, rank, data = self.world.size, self.world.rank, self.folder / "data"
        mine = encode(self.vae, self.scenes.pictures[rank::size])
        save_file({"latents": mine}, data / f"latents-{rank}.safetensors")
        np.save(data / f"decoded-{rank}.npy", decode(self.vae, mine[::_DECODED].contiguous()))
        self.world.wait()
        if self.world.leads:
            latents = torch.empty(len(self.scenes.scenes), *mine.shape[1:])
            for part in range(size):
                latents[part::size] = load_file(data / f"latents-{part}.safetensors")["latents"]
            save_file({"latents": latents * self.vae.config["scaling_factor"]}, data / "latents.safetensors")
            rows = np.concatenate([np.arange(len(latents))[part::size][::_DECODED] for part in range(size)])
            pictures = np.concatenate([np.load(data / f"decoded-{part}.npy") for part in range(size)])
            np.savez(data / "decoded.npz", rows=rows, pictures=pictures)
        self.world.wait()

    def make_judges(self) -> None:
        """Train the three judges."""
        saved = np.load(self.folder / "data" / "decoded.npz")
        decoded = Scenes(saved["pictures"], tuple(self.scenes.scenes[row] for row in saved["rows"]))
        other = build_other(self.artwork, self.folder / "data", seed=_SEED, progress=_log)
        for name in JUDGE_LABELS:
            judge = train_judge(name, self.scenes, decoded, other, folder=self.folder, world=self.world)  # type: ignore[arg-type]
            if self.world.leads:
                pack_judge(judge, self.folder / "judges")
        self.world.wait()

    def make_text(self) -> None:
        """Train the text encoder."""
        text_encoder = train_text_encoder(
            self.scenes.scenes, self.tokenizer, folder=self.folder, world=self.world
        )
        if self.world.leads:
            text_encoder.save_pretrained(self.folder / "text" / "final")
        self.world.wait()

    def make_diffusion(self) -> None:
        """Train the UNet."""
        text_encoder = CLIPTextModel.from_pretrained(self.folder / "text" / "final")
        unet = train_diffusion(
            self.latents,
            self.scenes.scenes,
            self.tokenizer,
            text_encoder,
            folder=self.folder,
            world=self.world,
        )
        if self.world.leads:
            pack_pipeline(unet, text_encoder, self.vae, self.tokenizer, self.folder / "pipeline")
        self.world.wait()

    def make_pack(self) -> None:
        """Copy pipeline and judges into the package."""
        if self.world.leads:
            logger.info("packed into %s", ship(self.folder))


def main(argv: list[str] | None = None) -> None:
    """Run the stages named on the command line (all by default)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work_dir", type=Path, default=Path("runs/embedded"), help="artwork, data, checkpoints"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    workshop = Workshop(arguments.work_dir, World())
    for stage in STAGES:
        if stage in arguments.stages:
            getattr(workshop, f"make_{stage}")()


def _log(what: str, done: int, total: int) -> None:
    logger.info("%s %d/%d", what, done, total)


if __name__ == "__main__":
    main()
