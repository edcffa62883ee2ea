"""What a training step asks of a GPU: kernels launched, and waits for their results."""

import warnings
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.speed._timing import Work


class Launches(NamedTuple):
    """Counts of one run."""

    launches: int  # of kernels, copies and fills
    syncs: int  # waits of the processor for the GPU


def launches(run: Work) -> Launches:
    """Counted by torch's profiler, and by its warnings of operations that wait."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    syncs = sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    devices = [str(event.device_type) for event in profiled.events() or ()]
    return Launches(devices.count("DeviceType.CUDA"), syncs)
