r"""From a model to its program: the real call is recorded, on real tensors.

A `TorchFunctionMode` sees every function of torch that the forward calls and every attribute of a
tensor that it reads, as they happen; the model is given an ordinary tensor. What depends on the
input is followed by the identity of its tensors. Reading numbers (`item`, `bool`, `if`, numpy),
strides, addresses or the gradient's flags of such a tensor is refused, since then the forward may
branch on them; the size of the batch comes as a `BatchSize`, which can do nothing but shape. A
`TorchDispatchMode` below refuses operations that were not called through a function of torch
(compiled scripts, extensions, disabled overrides). Both modes are of one thread, and nothing is
patched: models may be recorded in several threads at once.

The recorder calls the functions of torch as they are. What each call is in a program is said by the
functions in `CAPTURES`, which stand beside the operations that they add.
"""

import itertools
from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from taut._torch_private import (
    UncompiledMode,
    is_functorch_wrapped_tensor,
    is_out_of_memory,
    peek_interpreter_stack,
)
from taut.program._batch import BatchSize, concrete, depends_on_batch
from taut.program._call import Call, Unknown
from taut.program._draft import Draft
from taut.program._functions import (
    QUERIES,
    key_of,
    results_of,
    storage_of,
    tensors_in,
    title_of,
    wraps_too_often,
)
from taut.program._op import CAPTURES, constructor_arguments, op_of, recording
from taut.program._places import Layer, Places
from taut.program._program import Program, Shape, plain
from taut.program._result import UnprovenError
from taut.program.ops._refused import reason_against

__all__ = ["record"]

_PLAIN = (Tensor, nn.Parameter, torch.nn.Buffer)
"""Types of tensors on which functions of torch do what they say."""


def record(model: nn.Module, x: Tensor, *, through: bool = False) -> tuple[Program, "Recorder"]:
    """The program of a model, from one call."""
    recorder = Recorder(model, x, through=through)
    outer = getattr(recording, "recorder", None)
    recording.recorder = recorder
    try:
        with torch.no_grad(), _Bypass(recorder), recorder:
            result = model(x)
    except Exception as error:  # a forward may raise anything
        if is_out_of_memory(error):
            raise error.__cause__ or error from None  # in torch's words
        place, module = recorder.places.of_error(error)
        reason = reason_against(module)
        if reason is not None:
            raise UnprovenError(f"{place} has no proven bound: {reason}.") from error
        words = " ".join(str(error).split())
        wrong = isinstance(error, ValueError)
        own = wrong and words.startswith("`") and not words.startswith("`input` ")
        if recorder.refused is not None or own:  # taut's sentence
            raise recorder.refused or error from None
        if wrong:
            raise ValueError(f"`input_shape` does not fit the model at {place}: {words}") from error
        raise UnprovenError(
            f"{place} fails on one tensor of `input_shape` "
            f"{tuple(x.shape[1:])} ({type(error).__name__}: {words})."
        ) from error
    finally:
        recording.recorder = outer
    if recorder.refused is not None:  # the forward caught it
        raise recorder.refused
    return recorder.program(result), recorder


@final
class _Bypass(UncompiledMode):
    """Refuses operations on the signal that no function of torch was called for."""

    def __init__(self, recorder: "Recorder") -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.recorder.depth and any(map(self.recorder.holds, tensors_in((args, kwargs)))):
            self.recorder.refused = UnprovenError(
                f"The forward runs {func} outside of the functions of torch (in a script, an "
                "extension, or with overrides disabled), where it cannot be traced."
            )
            raise self.recorder.refused
        return func(*args, **kwargs)


@final
class Recorder(TorchFunctionMode):
    """Follows one call of a model."""

    def __init__(self, model: nn.Module, x: Tensor, *, through: bool = False) -> None:
        super().__init__()
        self.batch, self.depth, self.through = len(x), 0, through
        self.values: dict[int, str | Unknown] = {}
        self.rows: dict[int, Tensor] = {}
        self.storages: set[int] = set()
        self.alive: list[Any] = []  # so that no new tensor has the identity of an old one
        self.draft = Draft(model, tuple(x.shape[1:]))
        self.foreign: dict[int, Tensor] = {}
        self.places = Places(model)
        self.made: set[int] = set()
        self.refused: UnprovenError | None = None
        self.switches = (torch.is_autocast_enabled(x.device.type), x.device.type)
        self._bind(x, "")

    # What happens.

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        try:
            return self._called(func, args, kwargs or {})
        except UnprovenError as error:
            self.refused = error
            raise

    def _called(self, func: Any, args: tuple, kwargs: dict) -> Any:
        if self.depth:
            return func(*args, **kwargs)
        tensors = tensors_in((args, kwargs))
        if peek_interpreter_stack() is not None or any(map(is_functorch_wrapped_tensor, tensors)):
            raise UnprovenError(f"`{title_of(func)}` is called in a transform of torch.func.")
        signals = [t for t in tensors if id(t) in self.values]
        if not signals:
            return self._constant(func, args, kwargs, tensors)
        if func in QUERIES:
            return self._query(func, args, kwargs, signals[0])
        self._check(func, tensors)
        versions = [t._version for t in tensors]
        result = self._run(func, args, kwargs)
        written = [t for t, v in zip(tensors, versions, strict=True) if t._version != v]
        names = self._captured(func, args, kwargs, result)
        self._write(func, written, result)
        for value, name in zip(results_of(result), names, strict=True):
            self._bind(value, name)
        return result

    def module(
        self, module: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict
    ) -> Any:
        """One call of a module of a registered type."""
        tensors = tensors_in((args, kwargs))
        ours = type(module).__module__.partition(".")[0] == "taut"
        if self.depth or not any(id(t) in self.values for t in tensors):
            return forward(*args, **kwargs)
        if self.through and not ours:
            return forward(*args, **kwargs)
        kind, path = type(module).__name__, self.places.paths.get(id(module), "")
        where = f"`{path or 'model'}` ({kind})"
        operation = op_of(module, path or "model")
        if operation.follows(module):
            return forward(*args, **kwargs)
        if kwargs or len(tensors) != len(args):
            raise UnprovenError(f"{where} must take tensors.")
        self.depth += 1  # what it does inside is not followed
        try:
            versions = [t._version for t in tensors]
            result = forward(*args)
            if any(t._version != v for t, v in zip(tensors, versions, strict=True)):
                raise UnprovenError(f"{where} writes over its input in place.")
            if not isinstance(result, Tensor) or result.shape[:1] != (self.batch,):
                raise UnprovenError(
                    f"{where} must return one tensor and keep the batch in dimension 0."
                )
            self._bind(result, self._module_node(module, operation.kind, path, tensors, result))
            return result
        finally:
            self.depth -= 1

    def _module_node(
        self, module: nn.Module, op: str, path: str, tensors: list[Tensor], result: Tensor
    ) -> "str | Unknown":
        kind = type(module).__name__
        try:
            inputs = tuple(Call(self, result, kind).name(t) for t in tensors)
            held = itertools.chain(module.named_parameters(), module.named_buffers())
            floats = {name: t.detach() for name, t in held if t.is_floating_point()}
            arguments = {k: _plain_or_text(v) for k, v in constructor_arguments(module).items()}
            layer = Layer(path, kind, True, object())
            return self.draft.add(
                op, inputs, tuple(result.shape[1:]), arguments, floats, layer, module
            )
        except UnprovenError as error:
            return Unknown(self._words(kind, path, error))

    def _run(self, function: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        self.depth += 1
        try:
            return function(*concrete(args), **concrete(kwargs))
        except (NotImplementedError, UnprovenError):
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            where = self.places.layer("").path or "model"
            words = wraps_too_often(error, *args[:2]) or " ".join(str(error).split()).rstrip(".")
            fault = f"`input_shape` does not fit the model at `{where}`: {words}."
            raise ValueError(fault) from error
        finally:
            self.depth -= 1

    def _constant(self, func: Any, args: tuple, kwargs: dict, tensors: list[Tensor]) -> Any:
        """A call without the signal: what it makes is a constant."""
        if any(map(self.holds, tensors)):
            raise UnprovenError(
                "The forward reads the signal through a tensor that torch did not make."
            )
        result = func(*concrete(args), **concrete(kwargs))
        made = tensors_in(result)
        self.made.update(id(t) for t in made)
        self.alive += made
        if depends_on_batch((args, kwargs)) or any(id(t) in self.rows for t in tensors):
            for tensor in made:
                self._keep_row(func, tensor)
        return result

    def _keep_row(self, func: Any, tensor: Tensor) -> None:
        """A constant that has a row for each sample: all must be the same."""
        same = tensor.dim() and len(tensor) == self.batch and bool((tensor == tensor[:1]).all())
        if not same:
            raise UnprovenError(
                f"The forward makes a constant of the size of the batch ({title_of(func)}), so "
                "that a sample's output depends on how many others there are."
            )
        self.rows[id(tensor)] = tensor[:1].clone()

    def _query(self, func: Any, args: tuple, kwargs: dict, signal: Tensor) -> Any:
        known = self.values[id(signal)]
        result = self._run(func, args, kwargs)
        if func in (Tensor.numel, Tensor.nelement, torch.numel):
            return BatchSize(1, self.batch) * (result // self.batch) if result else result
        sized = func is Tensor.size or func == Tensor.shape.__get__  # pyright: ignore[reportAttributeAccessIssue]
        if not sized:
            return result
        if isinstance(known, Unknown):
            raise UnprovenError(known.reason)
        if isinstance(result, torch.Size):
            return torch.Size((BatchSize(1, self.batch), *result[1:]))  # pyright: ignore[reportArgumentType]
        axis = args[1] if len(args) > 1 else kwargs["dim"]
        return BatchSize(1, self.batch) if axis % signal.dim() == 0 else result

    def _check(self, func: Any, tensors: list[Tensor]) -> None:
        """Refuse calls that do something else than the function says."""
        title = title_of(func)
        odd = [type(t).__name__ for t in tensors if type(t) not in _PLAIN]
        if odd:
            raise UnprovenError(
                f"`{title}` is given a {odd[0]}, for which it may do something else."
            )
        autocast, device = self.switches
        if torch.is_autocast_enabled(device) != autocast:
            raise UnprovenError("The forward switches autocast on, under which other weights run.")
        for tensor in tensors:
            if (
                id(tensor) in self.values
                or id(tensor) in self.draft.named
                or id(tensor) in self.made
            ):
                continue
            if self.holds(tensor):
                raise UnprovenError(
                    f"`{title}` reads the signal through a tensor that torch did not make."
                )
            self.foreign[id(tensor)] = tensor
            self.alive.append(tensor)

    def _captured(self, func: Any, args: tuple, kwargs: dict, result: Any) -> list[Any]:
        title = title_of(func)
        values = results_of(result)
        if result is None:
            raise UnprovenError(
                f"The forward writes over a part of the signal in place, by `{title}`."
            )
        if not all(isinstance(value, Tensor) for value in values):
            raise UnprovenError(
                f"The forward reads the signal by `{title}` and may branch on it; a proof needs a "
                "forward without branches on values."
            )
        call = Call(self, result, title)
        try:
            capture = CAPTURES.get(key_of(func))
            if capture is None:
                raise UnprovenError(
                    f"{title} has no rule; make it a module and register an op for it"
                )
            if kwargs.get("out") is not None:
                raise UnprovenError("it writes to a tensor that others may read")
            kwargs = {name: _unboxed(value) for name, value in kwargs.items()}
            names = capture(call, *map(_unboxed, args), **kwargs)
            names = list(names) if isinstance(names, tuple | list) else [names]
            for i, (value, name) in enumerate(zip(values, names, strict=True)):
                if isinstance(name, Unknown):
                    continue
                if name is None:  # places of what was sorted, and the like
                    names[i] = Unknown(f"`{title}` gives places, which no rule follows")
                else:
                    _check_value(value, self.batch, self.draft.shapes[name])
            return names
        except TypeError as error:
            words = str(error).partition("() ")[2] or str(error)
            reason = self._words(title, None, UnprovenError(f"its arguments: {words}"))
        except (UnprovenError, ValueError, IndexError) as error:
            reason = self._words(title, None, error)
        return [Unknown(reason)] * len(values)

    def _words(self, title: str, path: str | None, error: Exception) -> str:
        text = str(error)
        if text.startswith("`") and "has no proven bound" in text:
            return text  # of the value that it reads
        layer = self.places.layer(title) if path is None else Layer(path, title, True)
        where = f"`{layer.path}` ({layer.type})" if layer.library and layer.path else f"`{title}`"
        return f"{where} has no proven bound: {text}"

    def _write(self, func: Any, written: list[Tensor], result: Any) -> None:
        """Values that a call wrote over: what shares their memory is not what it was."""
        title = title_of(func)
        for tensor in written:
            if id(tensor) not in self.values:
                raise UnprovenError(f"`{title}` writes to a constant of the model in place.")
            place = storage_of(tensor)
            for other in [t for t in self.alive if isinstance(t, Tensor) and id(t) in self.values]:
                if other is not result and storage_of(other) == place and other.numel():
                    self.values[id(other)] = Unknown(
                        f"a value was overwritten in place by `{title}` and is read later; "
                        "write `x = x + y` instead of `x += y`"
                    )

    # What becomes of it.

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies where a signal lies."""
        if id(tensor) in self.values:
            return True
        return bool(self.storages) and storage_of(tensor) in self.storages

    def _bind(self, value: Tensor, name: str | Unknown) -> None:
        self.values[id(value)] = name
        self.alive.append(value)
        if value.numel():
            self.storages.add(storage_of(value))

    def program(self, result: Any) -> Program:
        """The nodes that the result depends on, under their names."""
        if not (isinstance(result, Tensor) and result.dim() >= 1 and len(result) == self.batch):
            what = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            several = isinstance(result, tuple | list | dict) and len(result) > 1
            advice = " Wrap it in a module that returns one of them, or torch.cat of all."
            raise UnprovenError(
                f"The model must return one tensor, batch first; got {what}."
                + (advice if several else "")
            )
        if not (result.is_floating_point() and result.numel()):
            raise UnprovenError("The model must return real numbers, one at least.")
        if id(result) not in self.values:
            raise UnprovenError("The output of the model does not depend on its input.")
        output = self.values[id(result)]
        if isinstance(output, Unknown):
            raise UnprovenError(output.reason + ("" if output.reason.endswith(".") else "."))
        return self.draft.program(output)


def _check_value(value: Tensor, batch: int, shape: Shape) -> None:
    if not value.is_floating_point():
        raise UnprovenError("its result is not made of real numbers: it rounds or counts")
    if value.dim() == 0 or value.shape[0] != batch:
        raise UnprovenError("it does not keep the batch in dimension 0")
    assert tuple(value.shape[1:]) == shape, (tuple(value.shape[1:]), shape)


def _unboxed(value: Any) -> Any:
    """A number of numpy as one of Python, also in a tuple or a list."""
    if type(value) in (tuple, list):
        return type(value)(map(_unboxed, value))
    return value.item() if isinstance(value, np.generic) else value


def _plain_or_text(value: Any) -> Any:
    try:
        return plain(value)
    except UnprovenError:
        return repr(value)
