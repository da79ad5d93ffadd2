"""One training by several processes, each on a device of its own, as if it were one.

Every process draws the same batch, learns from its own rows of it, and adds its gradients to those
of the others; batch norms take their statistics over all rows. So the weights are those of one
process with the whole batch, but for the order in which numbers are added. Each process ends with
the same weights; the first one speaks for all.

The group is torch.distributed's own: `joined` makes it, and `here` finds it, alone without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

PATIENCE = timedelta(minutes=10)  # a process that waits longer for the others gives up


@dataclass(frozen=True)
class Group:
    """This process among `world` of them; rank 0 speaks for all."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Say whether this process reports and saves."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Return this process' rows of a batch of `count`: every `world`-th, from its rank on.

        Raises ValueError when some process would have none.
        """
        if count < self.world:
            raise ValueError(
                f"a batch of {count} cannot be shared by {self.world} processes; "
                f"train with at most {count}"
            )
        return slice(self.rank, None, self.world)

    def share(self, count: int) -> float:
        """Return which share of a batch of `count` this process has."""
        return len(range(count)[self.rows(count)]) / count

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients by their sums over all processes, in one message."""
        own = [p.grad for p in parameters if p.grad is not None]
        if self.world == 1 or not own:
            return
        flat = torch.cat([gradient.flatten().float() for gradient in own])
        distributed.all_reduce(flat)
        for gradient, total in zip(own, torch.split(flat, [g.numel() for g in own]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def whole(self, rows: Tensor, count: int) -> Tensor:
        """Return the values (B, ...) of a whole batch, given those of this process' rows.

        Gradients flow back into these alone.
        """
        if self.world == 1:
            return rows
        found = torch.zeros((count, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
        found[self.rows(count)] = rows.detach()
        distributed.all_reduce(found)
        found[self.rows(count)] = rows
        return found

    def follow_first(self, network: nn.Module) -> None:
        """Take over the weights and statistics of the first process."""
        for value in network.state_dict().values() if self.world > 1 else ():
            distributed.broadcast(value, src=0)

    def agreed(self, value: float, device: str) -> float:
        """Return what the first process says: clocks and roundings differ, decisions must not."""
        if self.world == 1:
            return value
        said = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(said, src=0)
        return float(said.item())


ALONE = Group()


def here() -> Group:
    """Return the group that this process has joined, ALONE without one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    return Group(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def joined(rank: int, world: int, address: str, device: str) -> Iterator[Group]:
    """Join `world` processes that meet at `address` ("tcp://host:port", "file:///path").

    device: "cpu" (gloo), or "cuda:N" (NCCL), another one for each process of a machine.
    """
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(
        backend, init_method=address, rank=rank, world_size=world, timeout=PATIENCE
    )
    try:
        yield Group(rank, world)
    finally:
        distributed.destroy_process_group()


@contextmanager
def shared_statistics(network: nn.Module, group: Group) -> Iterator[None]:
    """Have batch norms see the rows of all processes while the block runs.

    Their weights and running statistics stay the network's own. Raises ValueError for norms that
    also do something else, as some of timm's encoders have.
    """
    replaced = [] if group.world == 1 else _replace_norms(network)
    try:
        yield
    finally:
        for parent, name, norm in replaced:
            setattr(parent, name, norm.train(parent.training))


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the rows of all processes, on any device; autograd goes through the sums.

    torch's own SyncBatchNorm refuses to run on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same; all processes must call it."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        sums = torch.cat((values.sum(dim=(0, 2, 3)), values.new_tensor([x.numel() / x.shape[1]])))
        sums = _sum_over_all(sums)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]
        squares = (centred**2).sum(dim=(0, 2, 3))
        variance = _sum_over_all(squares) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        normal: Tensor = scaled * self.weight[:, None, None] + self.bias[:, None, None]
        return normal.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        momentum = self.momentum or 0.0
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.lerp_(value.to(running.dtype), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class _SumOverAll(torch.autograd.Function):
    """The sum over all processes; so is its gradient, as every process' loss depends on it."""

    @staticmethod
    def forward(_: Any, own: Tensor) -> Tensor:
        """Return the sum of what the processes have, of one shape."""
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Return the sum of the gradients that the processes have of it."""
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _sum_over_all(own: Tensor) -> Tensor:
    total: Tensor = _SumOverAll.apply(own)
    return total


class _Replaced(NamedTuple):
    parent: nn.Module
    name: str
    norm: nn.BatchNorm2d


def _replace_norms(network: nn.Module) -> list[_Replaced]:
    found = [
        _Replaced(parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm2d)
    ]
    for one in found:
        if type(one.norm) is not nn.BatchNorm2d or not one.norm.affine or not one.norm.momentum:
            raise ValueError(
                f"the {type(one.norm).__name__} {one.name!r} cannot be shared by several "
                "processes; train this encoder with one"
            )
    for one in found:
        setattr(one.parent, one.name, _shared(one.norm))
    return found


def _shared(norm: nn.BatchNorm2d) -> SharedBatchNorm:
    """Return a norm with the very tensors of another one."""
    shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum)
    shared.weight, shared.bias = norm.weight, norm.bias
    shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
    shared.num_batches_tracked = norm.num_batches_tracked
    return shared.train(norm.training)
