"""Training by several processes of one thread each, which average their gradients at every step.

On cores that other programs use too, this loses far less than threads that wait for each other in every
operation. Without `start`, everything here is a worker alone.
"""

import multiprocessing
import socket
from collections.abc import Callable

import torch
from torch import distributed

Work = Callable[[], None]


def rank() -> int:
    """The number of this worker; worker 0 reports and saves."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """How many workers there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait() -> None:
    """Wait until every worker is here."""
    if distributed.is_initialized():
        distributed.barrier()


def average(module: torch.nn.Module, numbers: list[float]) -> list[float]:
    """Replace every gradient of `module` by its mean over the workers, and return the means of `numbers`."""
    if not distributed.is_initialized():
        return numbers
    gradients = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in module.parameters()]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor(numbers)])
    distributed.all_reduce(flat)
    flat /= count()
    at = 0
    for weight, gradient in zip(module.parameters(), gradients, strict=True):
        weight.grad = flat[at : at + gradient.numel()].view_as(gradient)
        at += gradient.numel()
    return [float(number) for number in flat[at:]]


def start(workers: int, work: Work) -> None:
    """Run `work`, which must be picklable, in so many processes of one thread each; return when all have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=_run, args=(number, workers, address, work)) for number in range(workers)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise RuntimeError("a worker failed; what it said stands above")


def _run(number: int, workers: int, address: str, work: Work) -> None:
    torch.set_num_threads(1)
    if workers > 1:
        distributed.init_process_group("gloo", init_method=address, rank=number, world_size=workers)
    work()
    if workers > 1:
        distributed.destroy_process_group()
