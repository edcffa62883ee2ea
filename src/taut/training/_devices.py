"""The kinds of devices that training runs on, and what differs between them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Device = Literal["auto", "cpu", "cuda", "mps", "xpu"]

_GPUS = tuple(name for name in get_args(Device) if name not in ("auto", "cpu"))


def choose_device(device: Device) -> torch.device:
    """The torch device for a name; "auto" is a GPU if there is one.

    Raises:
        ValueError: if torch finds no such device.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    found = [kind for kind in _GPUS if getattr(torch, kind).is_available()]
    if device == "auto":
        return torch.device([*found, "cpu"][0])
    if device != "cpu" and device not in found:
        allowed = " or ".join(["auto", *found, "cpu"])
        kind = "no such GPU" if found else "no GPU"
        raise ValueError(f"`device` must be {allowed} where torch finds {kind}; got {device}.")
    return torch.device(device)


def steps_between_readings(device: torch.device) -> int:
    """Steps from one reading of the loss to the next, which makes the CPU wait for a GPU."""
    return 1 if device.type == "cpu" else 16


def random_state(device: torch.device) -> Tensor | None:
    """The state of the generator of a GPU; None for a CPU, whose own is another one."""
    if device.type == "cpu":
        return None
    if device.type == "mps":
        return torch.mps.get_rng_state()
    return getattr(torch, device.type).get_rng_state(device)


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Go on from a state of the generator of a GPU."""
    if device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        getattr(torch, device.type).set_rng_state(state, device)


@contextmanager
def forked_random(device: torch.device) -> Iterator[None]:
    """Outside of this context, random numbers go on as if it had not been."""
    with torch.random.fork_rng(devices=[]):
        state = random_state(device)
        try:
            yield
        finally:
            if state is not None:
                set_random_state(device, state)


def peak_memory(device: torch.device) -> int | None:
    """The most bytes in use so far: on a GPU by tensors, else by this process; None if unknown."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        import resource
    except ImportError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def fabric_options(device: torch.device) -> tuple[Any, Any]:
    """Accelerator and strategy of Lightning Fabric for one process."""
    if device.type in ("cpu", "cuda", "mps"):
        return device.type, "auto"
    from lightning_fabric.strategies.single_device import SingleDeviceStrategy

    index = getattr(torch, device.type).current_device() if device.index is None else device.index
    strategy = SingleDeviceStrategy(device=torch.device(device.type, index))
    return _accelerator(), strategy


def _accelerator() -> Any:
    """What Fabric lacks for other devices than it knows, such as XPUs."""
    from lightning_fabric.accelerators.accelerator import Accelerator

    class Other(Accelerator):
        def setup_device(self, device: torch.device) -> None:
            getattr(torch, device.type).set_device(device)

        def teardown(self) -> None:
            pass

        @staticmethod
        def parse_devices(devices: Any) -> Any:
            return devices

        @staticmethod
        def get_parallel_devices(devices: Any) -> Any:
            return [torch.device("cpu")] * devices

        @staticmethod
        def auto_device_count() -> int:
            return 1

        @staticmethod
        def is_available() -> bool:
            return True

        @staticmethod
        def name() -> str:
            return "other"

    return Other()
