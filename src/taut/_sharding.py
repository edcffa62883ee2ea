"""Models that torch's `fully_shard` has distributed over processes."""

import functools
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

_Function = TypeVar("_Function", bound=Callable[..., Any])
# How the names of attributes begin that `fully_shard` gives a module.
_MARKS = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")


def is_sharded(tensor: object) -> bool:
    """Whether each process holds a part of this tensor only."""
    # Without the import there is no such tensor; it would take a while.
    package = sys.modules.get("torch.distributed.tensor")
    return package is not None and isinstance(tensor, package.DTensor)


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor, in every process; its gradient is the mean over the processes."""
    if not is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import Partial

    shard = cast(Any, tensor)
    return shard.full_tensor(grad_placements=[Partial("avg")] * shard.device_mesh.ndim)


@contextmanager
def whole_tensors(module: nn.Module) -> Iterator[None]:
    """Inside, the parameters of one module are :func:`whole_tensor`; for reading only."""
    if torch.compiler.is_compiling():
        yield
        return
    held = {name: p for name, p in module._parameters.items() if is_sharded(p)}
    module._parameters.update({name: whole_tensor(p) for name, p in held.items()})  # pyright: ignore
    try:
        yield
    finally:
        module._parameters.update(held)


def remember_shard(before: object, value: object) -> None:
    """Note on a gathered parameter which one it stands for, as `fully_shard` exchanges them."""
    if isinstance(value, Tensor) and is_sharded(before) and not is_sharded(value):
        value._shard = before  # pyright: ignore[reportAttributeAccessIssue]


def stored(tensor: Tensor) -> Tensor:
    """The sharded parameter of which this one was gathered, or itself."""
    return tensor.__dict__.get("_shard", tensor)


@contextmanager
def gathered(model: nn.Module, *, from_first: bool = False) -> Iterator[None]:
    """Context in which each process holds all parameters of a model sharded by `fully_shard`.

    The modules stay, and are what they were before `torch.distributed.fsdp.fully_shard`: with full
    parameters, and without its hooks. What is written into the parameters inside is kept, each
    process taking its own part. All processes must enter it together, since they exchange their
    parts. It changes nothing for any other model.

    Functions of taut enter it where they need to, so that :func:`taut.certify`,
    :func:`taut.freeze`, :func:`taut.retract_` and all others take sharded models.

    Args:
        model: sharded at any depth, or not at all.
        from_first: whether all keep what the first process wrote, for values drawn at random.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> with gathered(layer):
        ...     layer.weight.shape
        torch.Size([2, 2])
    """
    if not _is_distributed(model):
        yield
        return
    with ExitStack() as stack:
        for module in model.modules() if "torch.distributed.fsdp" in sys.modules else ():
            stack.enter_context(_unwrapped(module))
        shared: dict[Tensor, nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and is_sharded(stored(parameter)):
                    stack.enter_context(_whole(module, name, shared, from_first=from_first))
        if from_first and shared:
            stack.callback(_share_buffers, model, next(iter(shared)))
        yield


def _is_distributed(model: nn.Module) -> bool:
    if "torch.distributed.tensor" not in sys.modules:
        return False
    return any(is_sharded(stored(parameter)) for parameter in model.parameters())


@contextmanager
def _whole(
    module: nn.Module, name: str, shared: dict[Tensor, nn.Parameter], *, from_first: bool
) -> Iterator[None]:
    """Inside, one parameter is whole; `shared` holds those that are already."""
    registered = cast(Tensor, module._parameters[name])
    shard = stored(registered)
    first = shard not in shared
    if first and registered is shard:
        full = whole_tensor(shard.detach())
        shared[shard] = nn.Parameter(full, requires_grad=shard.requires_grad)
    elif first:
        shared[shard] = cast(nn.Parameter, registered)
    whole = module._parameters[name] = shared[shard]
    version = whole._version
    try:
        yield
    finally:
        # Where another tensor was set in its place, the module keeps that one.
        if module._parameters.get(name) is whole:
            module._parameters[name] = cast(nn.Parameter, registered)
        if first and (from_first or whole._version != version):
            _write(shard, whole, from_first=from_first)


@torch.no_grad()
def _write(shard: Tensor, whole: Tensor, *, from_first: bool) -> None:
    """Take the part of this process."""
    from torch.distributed.tensor import distribute_tensor

    own = cast(Any, shard)
    source = 0 if from_first else None
    own.copy_(distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=source))


@torch.no_grad()
def _share_buffers(model: nn.Module, like: Tensor) -> None:
    """Take the buffers of the first process."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    mesh = cast(Any, like).device_mesh
    for buffer in model.buffers():
        held = cast(Any, distribute_tensor(buffer, mesh, [Replicate()] * mesh.ndim))
        buffer.copy_(held.to_local())


@contextmanager
def _unwrapped(module: nn.Module) -> Iterator[None]:
    """Inside, the module is of its own class again, without what `fully_shard` added to it."""
    package, wrapped = sys.modules["torch.distributed.fsdp"], type(module)
    if isinstance(module, package.FSDPModule):
        cast(Any, module).reshard()
        own = (cls for cls in wrapped.__mro__[1:] if not issubclass(cls, package.FSDPModule))
        module.__class__ = next(own)
    before = {name: value for name, value in vars(module).items() if name.startswith(_MARKS)}
    for name in before:
        del module.__dict__[name]
    for name, hooks in list(vars(module).items()):
        if name.endswith("_hooks") and any(map(_of_torch, hooks.values())):
            kept = ((key, hook) for key, hook in hooks.items() if not _of_torch(hook))
            before[name], module.__dict__[name] = hooks, OrderedDict(kept)
    try:
        yield
    finally:
        module.__dict__.update(before)
        module.__class__ = wrapped


def _of_torch(hook: Any) -> bool:
    """Whether a hook is one of `fully_shard`."""
    function = hook.hook if hasattr(hook, "hook") else hook
    return getattr(function, "__module__", "").startswith("torch.distributed.fsdp")


def gathers(function: _Function) -> _Function:
    """Let a function whose first argument is a model see it whole, as in :func:`gathered`."""
    return _entering(function, from_first=False)


def draws(function: _Function) -> _Function:
    """Likewise for one that draws numbers at random: all processes keep those of the first."""
    return _entering(function, from_first=True)


def _entering(function: _Function, *, from_first: bool) -> _Function:
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def entered(*args: Any, **kwargs: Any) -> Any:
        model = args[0] if args else kwargs.get(first)
        if not isinstance(model, nn.Module) or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        with gathered(model, from_first=from_first):
            return function(*args, **kwargs)

    return cast(_Function, entered)
