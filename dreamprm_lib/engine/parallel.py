"""Several processes that train one model together: each takes its share of a batch, and gradients are summed.

`launch` starts such processes on this machine.  What trains is replicated; `shard` spreads the weights that don't.  In
a process on its own every function here does what it would for a group of one.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")
Result = TypeVar("Result")


def rank() -> int:
    """The number of this process in its group, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launch(processes: int, function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)` in each of so many processes of this machine, on a GPU each where there are any; the
    result of the first."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # half a second that few need

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        start_method="spawn", max_restarts=0, run_id="dreamprm",
    )  # fmt: skip
    return elastic_launch(config, _as_member)(function, *arguments)[0]


def _as_member(function: Callable[..., Result], *arguments: Any) -> Result | None:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        result = function(*arguments)
        return result if rank() == 0 else None
    finally:
        dist.destroy_process_group()


def share(items: Sequence[Item], even: bool = False) -> list[tuple[Item, float]]:
    """The items that are this process's to do, each with its part in the sum over all: 1, or 0 for what only keeps
    it busy.  `even` gives all processes equally many, as sharded weights need: they are gathered in step."""
    mine = [(item, 1.0) for item in items[rank() :: size()]]
    short = -(-len(items) // size()) - len(mine)
    return mine + [(items[0], 0.0)] * short if even else mine


def sum_up(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all processes; one message for all of them."""
    tensors = list(tensors)
    if size() > 1 and tensors:
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def shard(model: torch.nn.Module, layers: Iterable[torch.nn.Module]) -> None:
    """Spread the frozen weights of the layers over the processes (FSDP); each layer's are gathered when it is computed.
    What trains stays whole on each."""
    from torch.distributed.fsdp import fully_shard  # a second that few need

    whole = {p for p in model.parameters() if p.requires_grad}
    for layer in layers:
        fully_shard(layer, ignored_params=whole)
