"""Install the wheel alone and try it: `python .ci/check_wheel.py dist`.

An editable install hides two mistakes that users then find: a data file that was not packed, and a console
script that points nowhere. So the wheel goes into an empty environment of its own (the libraries it depends
on are borrowed from the running one), and there the commands are called and every public name is resolved.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

PACKAGE = "diffusers_erasure"
TRY_EVERY_NAME = f"""
import {PACKAGE} as package, sys
assert package.__file__.startswith(sys.prefix), package.__file__
for name in package.__all__:
    getattr(package, name)
print(len(package.__all__), "public names resolve")
"""


def tracked_files(repository: Path) -> set[str]:
    """Files of the package that git knows, relative to the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", PACKAGE], cwd=repository, check=True, capture_output=True, text=True
    )
    return {name for name in listing.stdout.split("\0") if name}


def check_contents(wheel: Path, repository: Path) -> None:
    """Stop if the wheel lacks a tracked file of the package, or has one that git does not know."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith(f"{PACKAGE}/")}
    tracked = tracked_files(repository)
    if missing := sorted(tracked - packed):
        sys.exit(f"error: the wheel lacks {missing}; add them to [tool.setuptools.package-data]")
    if extra := sorted(packed - tracked):
        sys.exit(f"error: the wheel holds {extra}, which git does not track; commit or remove them")
    print(f"{wheel.name}: {len(packed)} files, {wheel.stat().st_size / 2**20:.1f} MiB")


def install(wheel: Path, folder: Path) -> Path:
    """Put the wheel alone into a new environment that borrows this one's libraries. Returns its `bin`."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)],
        check=True,
    )
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    Path(packages, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python.parent


def main() -> None:
    """Check the one wheel in the folder that the command line names."""
    repository = Path(__file__).resolve().parent.parent
    (wheel,) = Path(sys.argv[1]).resolve().glob("*.whl")
    check_contents(wheel, repository)
    with tempfile.TemporaryDirectory() as scratch:
        programs = install(wheel, Path(scratch) / "venv")
        for command in (
            [programs / "diffusers-erasure", "--version"],
            [programs / "diffusers-erasure", "--help"],
            [programs / "python", "-m", PACKAGE, "--version"],
            [programs / "python", "-c", TRY_EVERY_NAME],
        ):
            subprocess.run(command, cwd=scratch, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
