"""One training in several processes: each has a device and a share of every batch; all have the same weights.

`torchrun` starts the processes. The networks of a GAN run several times in a step, in two roles; torch's
DistributedDataParallel is not made for that. So gradients are averaged here, once they are complete and before an
optimiser uses them. Running statistics of batch norms are averaged once per step. With one process nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError

_Result = TypeVar("_Result")


def share_of_batch(accelerator: Accelerator, batch_size: int) -> slice:
    """Returns the rows of a batch that belong to this process.

    Raises:
        UserError: The processes cannot share the rows evenly, so images would not have equal weights.
    """
    count = accelerator.num_processes
    if batch_size % count:
        raise UserError(
            f"batch_size {batch_size} cannot be shared evenly by {count} processes; use a multiple of {count}."
        )
    rows = batch_size // count
    return slice(accelerator.process_index * rows, (accelerator.process_index + 1) * rows)


def check_norms(accelerator: Accelerator, networks: Iterable[nn.Module]) -> None:
    """Refuses synchronised batch norm between CPUs, which torch cannot do.

    Raises:
        UserError: A network has such a norm; the message names the alternatives.
    """
    synchronised = any(isinstance(module, nn.SyncBatchNorm) for network in networks for module in network.modules())
    if synchronised and accelerator.num_processes > 1 and accelerator.device.type == "cpu":
        raise UserError(
            "Synchronised batch norm over several processes needs GPUs; on CPUs train in one process, or with "
            "norm.kind (for SPADE also spade_norm) batch."
        )


def same_weights(accelerator: Accelerator, networks: Iterable[nn.Module]) -> None:
    """Gives every process the first one's weights and buffers."""
    if accelerator.num_processes > 1:
        for network in networks:
            for values in network.state_dict().values():
                distributed.broadcast(values, src=0)


@torch.no_grad()
def average_gradients(accelerator: Accelerator, optimizer: Optimizer) -> None:
    """Replaces the gradients that an optimiser will use by their mean over the processes.

    The mean of losses over equal shares of a batch is the loss over the batch, so the mean of the gradients is its
    gradient.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    _average(accelerator, [parameter.grad for parameter in parameters if parameter.grad is not None])


@torch.no_grad()
def average_buffers(accelerator: Accelerator, networks: Iterable[nn.Module]) -> None:
    """Replaces buffers, such as running means and variances, by their mean over the processes."""
    buffers = [buffer for network in networks for buffer in network.buffers()]
    _average(accelerator, [buffer for buffer in buffers if buffer.is_floating_point()])


def _average(accelerator: Accelerator, tensors: list[Tensor]) -> None:
    if accelerator.num_processes == 1 or not tensors:
        return
    values = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(values)
    values /= accelerator.num_processes
    parts = values.split([tensor.numel() for tensor in tensors])
    means = [part.view_as(tensor) for tensor, part in zip(tensors, parts, strict=True)]
    torch._foreach_copy_(tensors, means)  # pyright: ignore[reportPrivateImportUsage]


def agreed(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Returns for each flag whether any process has raised it; all processes get the same answer."""
    if accelerator.num_processes == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int32, device=accelerator.device)
    distributed.all_reduce(raised, op=distributed.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def from_main(accelerator: Accelerator, make: Callable[[], _Result]) -> _Result:
    """Calls a function in the main process and returns its result, which must be picklable, in all processes.

    Raises:
        UserError: The function has raised it; all processes raise it then.
        RuntimeError: The function has raised another exception, which the main process raises as it is.
    """
    if accelerator.num_processes == 1:
        return make()
    answer: list[Any] = [None, None]
    raised: Exception | None = None
    if accelerator.is_main_process:
        try:
            answer[0] = make()
        except Exception as error:
            raised = error
            kept = isinstance(error, UserError)
            answer[1] = error if kept else RuntimeError(f"the main process failed ({type(error).__name__}: {error})")
    distributed.broadcast_object_list(answer, src=0)
    result, error = answer
    if error is not None:
        raise raised or error
    return result


def to_main(accelerator: Accelerator, value: _Result) -> list[_Result]:
    """Returns to the main process every process's value, which must be picklable, in the order of the processes.

    Other processes get an empty list, and hold no copies of each other's values.
    """
    if accelerator.num_processes == 1:
        return [value]
    values: list[Any] = [None] * accelerator.num_processes if accelerator.is_main_process else []
    distributed.gather_object(value, values or None, dst=0)
    return values
