"""Recording that is checked: the program is held against the model, which must not change."""

import math
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import is_lazy

from taut._arguments import check_module
from taut._torch_private import is_out_of_memory
from taut.linalg.precision import exact_float32
from taut.program._parametrized import has_parametrizations
from taut.program._program import Program
from taut.program._replay import replay
from taut.program._result import UnprovenError
from taut.program._trace import record
from taut.program.ops._refused import reason_against

__all__ = ["check_agreement", "check_precision", "checked_record"]

_SCALES = (1.0, -1.0, 1e-3, 30.0, 1e3)
"""Of the samples on which program and model are compared: a forward may branch on their size."""

_WRAPPERS = {
    "DistributedDataParallel": "model.module", "DataParallel": "model.module",
    "AveragedModel": "model.module", "FullyShardedDataParallel": "model.module",
    "_FabricModule": "model.module", "OptimizedModule": "model._orig_mod",
}  # fmt: skip


def checked_record(model: nn.Module, shape: tuple[int, ...], *, through: bool = False) -> Program:
    """The program of a model, recorded twice and compared with plain calls.

    A recording follows what a forward really does with tensors. What it cannot see (random numbers
    that are no tensors, time, counters, globals) shows where two calls differ, or where the model
    differs from the program on samples of many sizes, in batches of several sizes, with and without
    gradients.
    """
    check_model(model)
    like = _like(model)
    if torch.is_autocast_enabled(like.device.type):
        raise UnprovenError("Under autocast other weights run than are read; leave it to bound.")
    before = _State(model)
    with torch.no_grad(), exact_float32(like.device):
        program, first = record(
            model, _samples((1.0, 0.5, 0.25), shape, like, seed=1), through=through
        )
        before.check(model)
        again, second = record(model, _samples((0.7, 1.4), shape, like, seed=2), through=through)
        lasting = first.foreign.keys() <= second.foreign.keys()
        if not lasting or not second.foreign.keys() <= first.foreign.keys() | first.made:
            raise UnprovenError(
                "The forward uses a tensor that is made anew in each call, outside of the "
                "functions of torch; make it a buffer."
            )
        _compare_programs(program, again)
        x = _samples(_SCALES, shape, like, seed=0)
        _compare_calls(model, program, x)
    before.check(model)
    return program


def check_model(model: nn.Module) -> None:
    """Refuse models that are wrapped, lazy, or run with hooks of the whole process."""
    check_module(model)
    kind = type(model).__name__
    if kind in _WRAPPERS:
        raise UnprovenError(f"`model` is a {kind}, which wraps a model; pass {_WRAPPERS[kind]}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise UnprovenError("`model` is a script, whose forward cannot be traced; pass the module.")
    reason = reason_against(model)
    if reason is not None:
        raise UnprovenError(f"`model` ({kind}) has no proven bound: {reason}.")
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        raise UnprovenError("Global forward hooks may change any output; remove them.")
    for path, module in model.named_modules():
        tensors = (*module._parameters.values(), *module._buffers.values())
        name = f"`{path or 'model'}` ({type(module).__name__})"
        if any(t is not None and is_lazy(t) for t in tensors):
            raise UnprovenError(f"{name} is lazy: run it once, so that its weights exist.")
        if any(t is not None and t.is_meta for t in tensors):
            raise UnprovenError(f"{name} has weights without numbers (on the meta device).")


def _like(model: nn.Module) -> Tensor:
    tensors = [*model.parameters(), *model.buffers()]
    return next((t for t in tensors if t.is_floating_point()), torch.zeros((), device="cpu"))


def _samples(
    scales: tuple[float, ...], shape: tuple[int, ...], like: Tensor, *, seed: int
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(len(scales), *shape, generator=generator, dtype=torch.float64, device="cpu")
    factors = torch.tensor(scales, dtype=torch.float64, device="cpu").reshape(-1, *[1] * len(shape))
    return (x * factors).to(like.device, like.dtype)


def _compare_programs(first: Program, second: Program) -> None:
    same = first.content() == second.content() and all(
        torch.equal(t, second.tensors[name]) for name, t in first.tensors.items()
    )
    if not same:
        raise UnprovenError(
            "The model computes a different function in each call, so it cannot be traced: it "
            "draws random numbers, counts its calls, or depends on the size of the batch."
        )


def _compare_calls(model: nn.Module, program: Program, x: Tensor) -> None:
    whole = _call(model, x)
    if not _equal(whole, _call(model, x)):
        raise UnprovenError("The model is not deterministic: two calls give different outputs.")
    check_agreement(whole, replay(program, x), x)
    for sizes in ([1, len(x) - 1], [2, len(x) - 2]):
        parts = [_call(model, part) for part in x.split(sizes)]
        if any(part.shape[1:] != whole.shape[1:] or part.dim() != whole.dim() for part in parts):
            raise UnprovenError(
                "The model gives outputs of another shape for a batch of one sample; use "
                "squeeze(dim) or flatten(1) instead of squeeze()."
            )
        check_agreement(torch.cat(parts), whole, x)
    with torch.enable_grad():
        check_agreement(_call(model, x.clone().requires_grad_()).detach(), whole, x)


def check_precision(model: nn.Module, program: Program) -> None:
    """Refuse a program whose float64 outputs differ too much from those of the model."""
    x = _samples(_SCALES[:2], program.input_shape, _like(model), seed=0)
    with torch.no_grad(), exact_float32(x.device):
        check_agreement(_call(model, x), replay(program, wide(x)), x)


def _call(model: nn.Module, x: Tensor) -> Tensor:
    try:
        return model(x if x.requires_grad else x.clone())
    except UnprovenError:
        raise
    except RuntimeError as error:
        if x.requires_grad and "in-place" in str(error):
            return model(x.detach().clone())  # a leaf may not be written to; nothing more is shown
        if is_out_of_memory(error):
            raise
        words = " ".join(str(error).split())
        raise UnprovenError(
            f"The model does not take batches of any size, such as {len(x)}: {words}"
        ) from error


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def wide(x: Tensor) -> Tensor:
    """The batch in float64, on the CPU where its device has none."""
    return x.to("cpu" if x.device.type == "mps" else x.device, torch.float64)


def check_agreement(computed: Tensor, expected: Tensor, x: Tensor) -> None:
    """Refuse a program whose outputs differ from those of the model by more than rounding.

    Args:
        computed: outputs of one.
        expected: outputs of the other.
        x: the inputs; an output counts as large as those of all inputs that are no larger.

    Raises:
        UnprovenError: if two outputs differ.
    """
    coarse = max(torch.finfo(t.dtype).eps for t in (computed, expected))
    tolerance = max(1e-6, min(0.1, 2e4 * coarse))
    a, b, inputs = (wide(t).cpu().reshape(len(t), -1) for t in (computed, expected, x))
    if a.shape == b.shape:
        order = inputs.norm(dim=1).argsort()
        largest = b.abs().nan_to_num(0.0, 0.0, 0.0).amax(1)
        largest[order] = largest[order].cummax(0).values
        close = (a - b).abs() <= tolerance * largest[:, None] + 1e-30
        if bool((close | (a == b) | (a.isnan() & b.isnan()) | ~b.isfinite()).all()):
            return
    raise UnprovenError(
        "The model differs from the program that was recorded from it, or mixes "
        "the samples of a batch; it cannot be traced. (Or float32 breaks down on such inputs.)"
    )


@final
class _State:
    """Tensors, plain attributes and random state of a model, to see if a forward moves them."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = [(t, t.detach().clone()) for t in _held(model)]
        self.attributes = dict(_attributes(model))
        self.random = torch.get_rng_state()

    def check(self, model: nn.Module) -> None:
        """Raise if the model is no longer in this state."""
        now = list(_held(model))
        same = len(now) == len(self.tensors) and all(
            t is old and _equal(t.detach(), copy)
            for t, (old, copy) in zip(now, self.tensors, strict=True)
        )
        if not same or not torch.equal(self.random, torch.get_rng_state()):
            advice = " Pass taut.freeze(model), which keeps the weights of now."
            raise UnprovenError(
                "The forward draws random numbers or writes to parameters or buffers: the next "
                "call may compute something else." + (advice if has_parametrizations(model) else "")
            )
        attributes = dict(_attributes(model))
        for name in self.attributes | attributes:
            old, new = (
                values.get(name, "no plain value") for values in (self.attributes, attributes)
            )
            if old != new:
                raise UnprovenError(
                    f"The forward changes `{name}` from {old!r} to {new!r}: the next call "
                    "may compute something else."
                )


def _held(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, int | float | bool | str | None) and not (
                isinstance(value, float) and math.isnan(value)
            ):
                yield f"{path}.{name}" if path else name, value
