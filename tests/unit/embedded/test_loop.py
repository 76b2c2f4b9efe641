"""The training loop: what is stopped and resumed, or shared by two processes, ends as if nothing had been."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusers_erasure.embedded.recipe import loop
from diffusers_erasure.embedded.recipe.loop import Schedule, World, train

SCHEDULE = Schedule(steps=60, learning_rate=1e-2, ema_decay=0.95)
SEED, ROWS = 5, 4


def new_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def batch(generator: torch.Generator, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Inputs `(rows, 3)` and what is to be learned of them."""
    inputs = torch.randn((rows, 3), generator=generator)
    return inputs, torch.stack([inputs.sum(dim=1), inputs[:, 0] - inputs[:, 1]], dim=1)


def step_of(network: nn.Module) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    """The loss on a batch drawn from the generator."""

    def step(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        inputs, wanted = batch(generator)
        return {"loss": (network(inputs) - wanted).square().mean()}

    return step


def run(
    folder: Path,
    *,
    before: Callable[[int], None] = lambda index: None,
    network: nn.Module | None = None,
    save_seconds: float = 1e9,
) -> nn.Module:
    """Train the tiny problem; `before` is called with every step's index."""
    network = network or new_network()
    step = step_of(network)

    def observed(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        before(index)
        return step(index, generator)

    return train(
        network, observed, SCHEDULE, folder=folder, seed=SEED, world=World(), save_seconds=save_seconds
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder / "checkpoint"


def assert_same_checkpoint(folder: Path, expected: Path) -> None:
    for name in ("network", "average", "optimizer"):
        found, wanted = (load_file(path / f"{name}.safetensors") for path in (folder, expected))
        assert set(found) == set(wanted)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


def test_training_learns_and_ends_with_the_average(uninterrupted: Path, tmp_path: Path) -> None:
    network = run(tmp_path)
    assert not network.training
    average, last = (load_file(uninterrupted / f"{name}.safetensors") for name in ("average", "network"))
    assert all(torch.equal(value, average[key]) for key, value in network.state_dict().items())
    assert not torch.equal(average["0.weight"], last["0.weight"])
    inputs, wanted = batch(torch.Generator().manual_seed(99), rows=256)
    before, after = ((model(inputs) - wanted).square().mean() for model in (new_network(), network))
    assert after < 0.7 * before


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    finished = run(tmp_path)

    def refuse(index: int) -> None:
        raise AssertionError(f"step {index} ran again")

    again = run(tmp_path, before=refuse)
    assert all(torch.equal(a, b) for a, b in zip(finished.parameters(), again.parameters(), strict=True))


def test_dropout_resumes_bit_by_bit(tmp_path: Path) -> None:
    """Dropout draws from torch's own generator, whose state no checkpoint holds."""

    def with_dropout() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))

    def stop(index: int) -> None:
        if index == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    run(tmp_path / "whole", network=with_dropout())
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", network=with_dropout(), before=stop)
    torch.rand(7)
    run(tmp_path / "parts", network=with_dropout())
    assert_same_checkpoint(tmp_path / "parts" / "checkpoint", tmp_path / "whole" / "checkpoint")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_was_asked_to_stop_goes_on_bit_by_bit(
    uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]

    def stop(index: int) -> None:
        if index == 25:
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, before=stop)
    assert stopped.value.code == 143
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == handlers
    seen: list[int] = []
    run(tmp_path, before=seen.append)
    assert seen == list(range(40, 60)), "it stops after the next twentieth step"
    assert_same_checkpoint(tmp_path / "checkpoint", uninterrupted)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_loop

rename, count = Path.rename, 0

def rename_and_die(self, target):
    global count
    result = rename(self, target)
    count += target.name == "checkpoint.old"
    if count == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

Path.rename = rename_and_die
test_loop.run(Path(sys.argv[2]), save_seconds=-1)
"""


def test_a_kill_between_the_renames_of_a_checkpoint_loses_no_more_than_that_step(
    uninterrupted: Path, tmp_path: Path
) -> None:
    code = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.new", "checkpoint.old"}
    seen: list[int] = []
    run(tmp_path, before=seen.append)
    assert seen == list(range(30, 60))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}
    assert_same_checkpoint(tmp_path / "checkpoint", uninterrupted)


def test_a_write_that_fails_leaves_the_older_checkpoint(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0

    def fail_later(tensors: dict[str, Tensor], path: Path) -> None:
        nonlocal writes
        writes += 1
        if writes == 14:  # the second file of the fifth checkpoint
            raise OSError("no space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_file", fail_later)
        with pytest.raises(OSError, match="no space left"):
            run(tmp_path, save_seconds=-1)
    seen: list[int] = []
    run(tmp_path, before=seen.append)
    assert seen == list(range(4, 60))
    assert_same_checkpoint(tmp_path / "checkpoint", uninterrupted)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        run(tmp_path, network=nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))


TOGETHER = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import test_loop
from diffusers_erasure.embedded.recipe.loop import World, train

torch.set_num_threads(1)
world = World()
assert world.size == 2, world.size
assert not world.any(False) and world.any(world.rank == 1)
network = test_loop.new_network()
step, schedule = test_loop.step_of(network), test_loop.SCHEDULE
train(network, step, schedule, folder=Path(sys.argv[2]), seed=test_loop.SEED, world=world)
weights = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
print(f"rank {world.rank} of {torch.distributed.get_world_size()}: {weights.double().sum().item()!r}")
torch.distributed.destroy_process_group()
"""


def run_two_processes(folder: Path) -> str:
    """Output of the tiny problem trained by torchrun in two processes."""
    script = folder / "together.py"
    script.write_text(TOGETHER, encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(script), str(Path(__file__).parent), str(folder / "run")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path, uninterrupted: Path) -> None:
    output = run_two_processes(tmp_path)
    # The two processes share one stdout: their lines may run into each other.
    ranks = dict(re.findall(r"(rank \d of \d): (-?\d+\.\d+(?:e-?\d+)?)", output))
    assert set(ranks) == {"rank 0 of 2", "rank 1 of 2"}
    assert len(set(ranks.values())) == 1, "the processes ended with different weights"
    network = new_network()
    generator = torch.Generator()

    def step(index: int, _own: torch.Generator) -> dict[str, Tensor]:
        drawn = []
        for rank in (0, 1):
            generator.manual_seed((SEED * 1_000_003 + index) * 64 + rank)
            drawn.append(batch(generator))
        inputs, wanted = (torch.cat(part) for part in zip(*drawn, strict=True))
        return {"loss": (network(inputs) - wanted).square().mean()}

    train(network, step, SCHEDULE, folder=tmp_path / "one", seed=SEED, world=World())
    for name in ("network", "average"):
        one, two, alone = (
            load_file(folder / f"{name}.safetensors")
            for folder in (tmp_path / "one" / "checkpoint", tmp_path / "run" / "checkpoint", uninterrupted)
        )
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(one["0.weight"], alone["0.weight"], atol=1e-2), (
            "the second half was not used"
        )


def test_the_rate_warms_up_and_falls_to_two_per_cent() -> None:
    schedule = Schedule(steps=1000, learning_rate=0.5)
    rates = [loop._rate(index, schedule) for index in range(1000)]
    assert rates[0] == pytest.approx(0.5 / 20)
    assert rates[9] == pytest.approx(0.25)
    assert rates[19] == rates[20] == pytest.approx(0.5) == max(rates)
    assert rates[510] == pytest.approx(0.5 * 0.51, rel=1e-3)
    assert rates[999] == pytest.approx(0.5 * 0.02, rel=1e-2)
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
