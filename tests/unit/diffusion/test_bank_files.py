"""The files of a bank: the same pool on disk, builds that go on, and no bank of another origin."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from diffusers_erasure.diffusion import BankSettings, DiffusionComponents, Storage, TrajectoryBank
from diffusers_erasure.diffusion.bank_files import DiskTable
from diffusers_erasure.errors import ArtifactFormatError, ArtifactIntegrityError, ConfigError
from tests.unit.diffusion.banks import PROMPTS, STEPS, generator, pool, same, settings


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_pool_on_disk_is_the_pool_in_memory(
    components: DiffusionComponents, tmp_path: Path, storage: Storage
) -> None:
    plain = TrajectoryBank.build(components, PROMPTS, pool())
    built = TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path / "built", storage=storage)
    saved = plain.save(tmp_path / "saved")
    loaded = TrajectoryBank.load(saved, components, PROMPTS, pool(), storage=storage)
    assert isinstance(loaded._table, DiskTable) is (storage == "disk")
    for bank in (built, loaded):
        assert bank.fingerprint == plain.fingerprint != ""
        assert len(bank) == len(plain)
        assert same(bank.draw(generator(), 9), plain.draw(generator(), 9))
    assert loaded.evaluations == 0
    assert {path.name for path in saved.iterdir()} == {path.name for path in (tmp_path / "built").iterdir()}


def test_a_stopped_build_goes_on_where_it_stopped(components: DiffusionComponents, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path, progress=stop)
    (tmp_path / ".part-00001.safetensors.partial-1-ab").write_bytes(b"half a part")
    bank = TrajectoryBank.build(
        components, PROMPTS, pool(), folder=tmp_path, progress=lambda *at: seen.append(at)
    )
    assert seen == [(3, 4), (3, 4), (4, 4)]
    assert bank.evaluations == 2 * STEPS
    assert same(
        bank.draw(generator(), 9), TrajectoryBank.build(components, PROMPTS, pool()).draw(generator(), 9)
    )
    finished = TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)
    assert finished.evaluations == 0


def _another_unet(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    with torch.no_grad():
        parts.unet.conv_in.weight[0, 0, 0, 0] += 1e-3
    return parts, PROMPTS, pool()


def _another_encoder(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    with torch.no_grad():
        parts.text_encoder.final_layer_norm.bias[0] += 1e-3
    return parts, PROMPTS, pool()


def _another_schedule(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    scheduler = DDIMScheduler.from_config(parts.scheduler.config, prediction_type="v_prediction")
    return replace(parts, scheduler=scheduler), PROMPTS, pool()


def _other_prompts(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    return parts, PROMPTS[::-1], pool()


def _other_settings(parts: DiffusionComponents) -> tuple[DiffusionComponents, list[str], BankSettings]:
    return parts, PROMPTS, pool(guidance_scale=4.0)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (_another_unet, "unet"),
        (_another_encoder, "text_encoder"),
        (_another_schedule, "schedule"),
        (_other_prompts, "prompts"),
        (_other_settings, "settings"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_bank_of_another_origin_is_refused_and_says_which(
    components: DiffusionComponents,
    tmp_path: Path,
    change: Callable[[DiffusionComponents], tuple[DiffusionComponents, list[str], BankSettings]],
    culprit: str,
    complete: bool,
) -> None:
    TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)
    if not complete:
        (tmp_path / "bank.json").unlink()
    parts, prompts, chosen = change(components)
    with pytest.raises(ConfigError, match=f"made from another {culprit} "):
        TrajectoryBank.build(parts, prompts, chosen, folder=tmp_path)
    if complete:
        with pytest.raises(ConfigError, match=f"made from another {culprit} "):
            TrajectoryBank.load(tmp_path, parts, prompts, chosen)


def test_a_batch_size_only_matters_while_building(components: DiffusionComponents, tmp_path: Path) -> None:
    TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)
    other = pool().model_copy(update={"batch_size": 1})
    assert len(TrajectoryBank.load(tmp_path, components, PROMPTS, other)) == 20
    (tmp_path / "bank.json").unlink()
    with pytest.raises(ConfigError, match="batch_size that the build began with"):
        TrajectoryBank.build(components, PROMPTS, other, folder=tmp_path)


def test_damaged_files_are_refused(components: DiffusionComponents, tmp_path: Path) -> None:
    with pytest.raises(ArtifactFormatError, match=r"has no bank\.json"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)
    listed = (tmp_path / "bank.json").read_text()
    part = tmp_path / "part-00000.safetensors"
    whole = part.read_bytes()
    part.write_bytes(whole[:-4] + b"\0\0\xc0\x7f")
    with pytest.raises(ArtifactIntegrityError, match=r"part-00000\.safetensors is not the file"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    part.unlink()
    with pytest.raises(ArtifactIntegrityError, match="lost, changed or corrupted"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    (tmp_path / "bank.json").write_text("{")
    with pytest.raises(ArtifactFormatError, match="is not JSON"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    (tmp_path / "bank.json").write_text(json.dumps({**json.loads(listed), "format": 2}))
    with pytest.raises(ArtifactFormatError, match="found 2"):
        TrajectoryBank.load(tmp_path, components, PROMPTS, pool())
    (tmp_path / "bank.json").unlink()
    part.write_bytes(b"no safetensors")
    with pytest.raises(ArtifactFormatError, match="is no part of a bank"):
        TrajectoryBank.build(components, PROMPTS, pool(), folder=tmp_path)


def test_half_precision_is_only_how_it_is_kept(components: DiffusionComponents) -> None:
    exact = TrajectoryBank.build(components, PROMPTS, pool()).draw(generator(), 9)
    kept = TrajectoryBank.build(components, PROMPTS, pool(dtype="float16")).draw(generator(), 9)
    assert kept.latents.dtype == torch.float32
    assert not torch.equal(kept.latents, exact.latents)
    torch.testing.assert_close(kept.latents, exact.latents, rtol=1e-3, atol=1e-3)


def test_only_a_pool_in_memory_can_be_saved(components: DiffusionComponents, tmp_path: Path) -> None:
    for chosen, options in ((settings(), {}), (pool(), {"folder": tmp_path / "a", "storage": "disk"})):
        bank = TrajectoryBank.build(components, PROMPTS, chosen, **options)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="has nothing to save"):
            bank.save(tmp_path / "b")
