"""Peak memory of training steps; on a CPU in a process of its own, which may run out of memory."""

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch
from torch import nn

from experiments.compare._net import build
from experiments.compare._training import Task, Training
from experiments.speed._memory import peak_growth

_STEPS = 3


def peak_memory(task: Task, shape: tuple[int, int, int], classes: int, device: torch.device) -> int:
    """Bytes of parameters, gradients, moments of Adam and activations."""
    if device.type == "cuda":
        return _on_gpu(task, shape, classes, device)
    context = multiprocessing.get_context("spawn")
    no_interrupt = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    with ProcessPoolExecutor(1, mp_context=context, **no_interrupt) as pool:
        return pool.submit(growth, task, shape, classes, torch.get_num_threads()).result()


def growth(task: Task, shape: tuple[int, int, int], classes: int, threads: int) -> int:
    """On a CPU, by the growth of this process, which should be fresh."""
    torch.set_num_threads(threads)
    small = nn.Sequential(nn.Conv2d(shape[0], classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    _steps(small, task, shape, classes)()  # loads code that must not count
    net = build(task.method, task.size, shape, classes)
    return peak_growth(net, _steps(net, task, shape, classes))


def _on_gpu(task: Task, shape: tuple[int, int, int], classes: int, device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    net = build(task.method, task.size, shape, classes).to(device)
    run = _steps(net, task, shape, classes)
    for _ in range(_STEPS):
        run()
    return torch.cuda.max_memory_allocated(device) - before


def _steps(
    net: nn.Module, task: Task, shape: tuple[int, int, int], classes: int
) -> "partial[None]":
    """A function that takes a step on random images."""
    device = next(net.parameters()).device
    images = torch.rand(task.batch, *shape, device=device)
    labels = torch.arange(task.batch, device=device) % classes
    return partial(Training(net, task, shape).step, images, labels)
