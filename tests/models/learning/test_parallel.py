"""Several processes train as one process with the whole batch does; proved with gloo on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models.learning import parallel
from models.learning.parallel import ALONE, Group
from tests.models.learning import parallel_training
from tests.models.small_network import small_network, state

pytestmark = pytest.mark.training

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have two processes train each kind; the folder holds the weights that each ends with."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "tests.models.learning.parallel_training"]
    started = [
        subprocess.Popen(
            [*command, rank, "2", str(folder)],
            cwd=Path(__file__).resolve().parents[3],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("kind", parallel_training.KINDS)
def test_two_processes_give_the_weights_of_one_with_the_doubled_batch(
    kind: str, trained_by_two: Path
) -> None:
    alone = parallel_training.KINDS[kind]().state_dict()
    first, second = (load_file(trained_by_two / f"{kind}-{n}.safetensors") for n in range(2))
    assert first.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name].float(), value.float(), rtol=0, atol=TOLERANCE), name


def test_the_rows_of_all_processes_are_the_batch() -> None:
    for count, world in [(8, 2), (7, 3), (4, 4)]:
        groups = [Group(rank, world) for rank in range(world)]
        taken = [n for group in groups for n in range(count)[group.rows(count)]]
        assert sorted(taken) == list(range(count))
        assert sum(group.share(count) for group in groups) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="a batch of 3 cannot be shared by 4 processes"):
        Group(0, 4).rows(3)


def test_alone_nothing_is_shared_or_replaced() -> None:
    network, values = small_network(), torch.arange(3.0)
    before = state(network)
    with parallel.shared_statistics(network, ALONE):
        assert not any(isinstance(m, parallel.SharedBatchNorm) for m in network.modules())
    ALONE.follow_first(network)
    ALONE.add_gradients(list(network.parameters()))
    assert ALONE.whole(values, 3) is values and ALONE.agreed(0.25, "cpu") == 0.25
    assert all(torch.equal(before[name], value) for name, value in state(network).items())
    assert parallel.here() == ALONE


def test_a_group_of_one_computes_batch_norm_as_torch_does(tmp_path: Path) -> None:
    """Values, gradients and running statistics; the network gets its own norms back."""
    torch.manual_seed(1)
    ours, theirs = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    x, wanted = torch.rand(4, 3, 6, 6), torch.rand(4, 4, 4, 4)
    norm = ours[1]
    with parallel.joined(0, 1, f"file://{tmp_path}/meeting", "cpu"):
        assert parallel.here() == Group(0, 1)
        with parallel.shared_statistics(ours, Group(0, 2)):  # as if there were others
            assert isinstance(ours[1], parallel.SharedBatchNorm)
            for network in (ours, theirs):
                ((network(x) - wanted) ** 2).sum().backward()
    assert ours[1] is norm and type(norm) is nn.BatchNorm2d
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None
        assert torch.allclose(own.grad, other.grad, atol=1e-3, rtol=1e-4)
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, atol=1e-6), name


def test_norms_that_do_something_else_are_refused() -> None:
    class Activating(nn.BatchNorm2d):
        pass

    network = nn.Sequential(nn.BatchNorm2d(2), Activating(2))
    with (
        pytest.raises(ValueError, match="Activating '1' cannot be shared"),
        parallel.shared_statistics(network, Group(0, 2)),
    ):
        pass
    assert type(network[0]) is nn.BatchNorm2d, "nothing was replaced"
