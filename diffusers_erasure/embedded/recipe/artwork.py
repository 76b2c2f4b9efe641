"""The artwork: emoji families from npm, each under a licence that allows shipping what is trained on it.

`fetch_artwork` downloads the packages by name and version with npm's own client. `Family.svg` gives one
drawing. openmoji is share-alike: it is only used to test the judges on unseen art and trains nothing.
"""

import json
import logging
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffusers_erasure.errors import MissingDependencyError, TrainingError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One npm package of artwork: name, version, licence and whether weights trained on it may ship."""

    package: str
    version: str
    licence: str
    author: str
    trains: bool = True


SOURCES: dict[str, Source] = {
    "noto": Source("noto", "1.2.9", "Apache-2.0", "Google"),
    "android": Source("noto-v1", "1.2.5", "Apache-2.0", "Google"),
    "fluent": Source("fluent-emoji-flat", "1.2.6", "MIT", "Microsoft"),
    "glossy": Source("fluent-emoji", "1.2.7", "MIT", "Microsoft"),
    "contrast": Source("fluent-emoji-high-contrast", "1.2.6", "MIT", "Microsoft"),
    "twemoji": Source("twemoji", "1.2.5", "CC-BY-4.0", "Twitter, Inc and other contributors"),
    "emojione": Source("emojione", "1.2.3", "CC-BY-4.0", "EmojiOne"),
    "firefox": Source("fxemoji", "1.2.2", "CC-BY-4.0", "Mozilla"),
    "openmoji": Source("openmoji", "1.2.29", "CC-BY-SA-4.0", "OpenMoji", trains=False),
}
"""The families by the word that this recipe uses for them."""


class Family:
    """The drawings of one unpacked package.

    Args:
        folder: The unpacked npm package, with `icons.json`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _icons(self) -> dict[str, object]:
        loaded: dict[str, object] = json.loads((self._folder / "icons.json").read_text(encoding="utf-8"))
        return loaded

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all drawings, without skin-tone variants."""
        icons = self._icons["icons"]
        if not isinstance(icons, dict):
            raise TrainingError(
                f"{self._folder}/icons.json holds no table of icons; download the package again"
            )
        return tuple(
            name
            for name in icons
            if not name.endswith(("-tone", "-light", "-dark", "-medium")) and "-skin" not in name
        )

    def svg(self, name: str) -> str | None:
        """Return the drawing called `name` as SVG text, or None if the family lacks it."""
        icon = self._icons["icons"].get(name)  # type: ignore[attr-defined]
        if icon is None:
            return None
        width = icon.get("width", self._icons.get("width", 16))
        height = icon.get("height", self._icons.get("height", 16))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )


def icon_names(noto: Path) -> dict[str, str]:
    """Return the drawing's name for each emoji code point (lower case, no variation selector)."""
    table: dict[str, str] = json.loads((noto / "chars.json").read_text(encoding="utf-8"))
    return {code.removesuffix("-fe0f"): name for code, name in table.items()}


def fetch_artwork(folder: Path) -> dict[str, Path]:
    """Download and unpack every family into `folder`; what is there already is kept.

    Returns:
        The unpacked package folder of each family.

    Raises:
        MissingDependencyError: npm's client is not installed.
        TrainingError: A download failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependencyError(
            "the artwork comes from npm packages, but `npm` is not installed; install Node.js"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return {family: _fetch(npm, source, folder) for family, source in SOURCES.items()}


def _fetch(npm: str, source: Source, folder: Path) -> Path:
    unpacked = folder / f"{source.package}-{source.version}"
    if (unpacked / "icons.json").exists():
        return unpacked
    spec = f"@iconify-json/{source.package}@{source.version}"
    logger.info("downloading %s", spec)
    result = subprocess.run(
        [npm, "pack", "--silent", spec], cwd=folder, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise TrainingError(
            f"npm could not download {spec}: {result.stderr.strip()}; check the connection and repeat"
        )
    archive = folder / result.stdout.strip().splitlines()[-1]
    staging = folder / f".{unpacked.name}"
    shutil.rmtree(staging, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(staging, filter="data")
    (staging / "package").rename(unpacked)
    shutil.rmtree(staging)
    archive.unlink()
    return unpacked
