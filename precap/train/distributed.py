"""Several processes, one run: torchrun's environment, sums over ranks, and a rank that died."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from precap.errors import ConfigError, ResourceError

PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process among the ``world`` of them; alone when torchrun did not start it."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def add(self, value: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.world > 1:
            with _alive():
                dist.all_reduce(value)
        return value

    def add_gradients(self, head: nn.Module) -> None:
        """Sum every gradient over ranks, as one message: losses are already shares of the whole."""
        if self.world == 1:
            return
        grads = [p.grad for p in head.parameters() if p.requires_grad and p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        self.add(flat)
        for grad, part in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def collect(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank, in order. Plain values only."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        with _alive():
            dist.all_gather_object(found, value)
        return found

    def share(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        return self.collect(value)[0]


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The process group torchrun's environment describes, or one process alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ:
        yield Ranks()
        return
    ranks = Ranks(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(ranks.local)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def pick_device(name: str, ranks: Ranks) -> torch.device:
    """``auto``: this rank's GPU, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda", ranks.local) if name == "cuda" else torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"--device {name!r} is no device. Use auto, cpu, cuda or cuda:1."
        ) from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(
            f"--device {name}: this machine offers {count} CUDA devices, and this process asks for "
            f"number {device.index or 0}. Use --device auto or cpu."
        )
    return device


@contextmanager
def _alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ResourceError(
            f"Another process of this run is gone or stuck ({str(error).splitlines()[0]}). Its "
            f"checkpoints are as they were: look at that process's output, then repeat the command."
        ) from error
