"""A plan as safetensors with a file of plain torch beside them."""

import json
from pathlib import Path
from typing import Any

import torch

from taut.deploy.plan import PlainModel, Plan, Step
from taut.files import load_tensors, save_tensors, write_atomically

__all__ = ["plan_of_tensors", "save_plain"]

_HEAD = '''"""A model in plain torch, written by taut; its tensors are in the file beside it."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
'''

_TAIL = '''

def load(path=Path(__file__).with_suffix(".safetensors")):
    """The model with its tensors, in eval mode."""
    from safetensors.torch import load_file

    model, state = Model(), load_file(path)
{shared}    model.load_state_dict(state)
    return model.requires_grad_(False).eval()
'''

_FUNCTIONS = {
    "MaxMin": '''
def maxmin(x):
    """The larger of each pair of channels, then the smaller; the halves are paired."""
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half : 2 * half]
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b), x[:, 2 * half :]], 1)
''',
    "GroupSort": '''
def group_sort(x, size):
    """Each group of neighbouring channels in ascending order."""
    whole = x.shape[1] - x.shape[1] % size
    groups = x[:, :whole].unflatten(1, (-1, size)).sort(2).values
    return torch.cat([groups.flatten(1, 2), x[:, whole:]], 1)
''',
    "PadToMultiple2d": '''
def pad_to_multiple(x, rows, columns):
    """Zeros below and on the right until the size is a multiple."""
    return F.pad(x, (0, -x.shape[3] % columns, 0, -x.shape[2] % rows))
''',
}
_ARGUMENTS: dict[str, set[str]] = {
    "AdaptiveAvgPool2d": {"output_size"}, "AvgPool2d": {"kernel_size", "stride"},
    "GroupSort": {"group_size"}, "InvertibleDownsample2d": {"factor"},
    "MaxPool2d": {"kernel_size", "stride"}, "PadToMultiple2d": {"multiple"},
    "Scale": {"factor"}, "ZeroPad2d": {"padding"},
}  # fmt: skip
"""Of what is written as a function: all that its text says."""

_DEFAULTS = {
    "dilation": (1, 1), "eps": 1e-5, "groups": 1, "padding": (0, 0), "padding_mode": "zeros",
    "stride": (1, 1),
}  # fmt: skip


def save_plain(plan: Plan, path: Path) -> list[Path]:
    """Write the tensors, with the plan in their header, and a module of plain torch.

    Args:
        plan: what to write.
        path: of the safetensors file; the module goes beside it, as `.py`.

    Returns:
        The two files.

    Example:
        >>> import tempfile
        >>> plan = Plan((Step("relu1", "ReLU", ("input",)),), {}, "input", (3,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tensors, module = save_plain(plan, Path(folder, "model.safetensors"))
        ...     plan_of_tensors(tensors) == plan, module.name
        (True, 'model.py')
    """
    text = json.dumps(_content(plan), sort_keys=True)
    save_tensors(path, plan.tensors, {"format": "pt", "plan": text})
    module = path.with_suffix(".py")
    write_atomically(module, _module(plan).encode())
    return [path, module]


def plan_of_tensors(path: Path, input_shape: tuple[int, ...] | None = None) -> Plan:
    """Read the plan in the header and the tensors; a module beside them must be theirs.

    The plan alone is enough to prove. The Python file, where there is one, is compared with the
    text that the plan gives, letter by letter, and never run.

    Args:
        path: of the safetensors file.
        input_shape: of one input, if another than it was written for.

    Raises:
        ValueError: naming the file, if it is damaged, not of this kind, or if the module differs.
    """
    tensors, header = load_tensors(path)
    if "plan" not in header:
        raise ValueError(f"{path} was not written by `taut export`: it says nothing of layers.")
    try:
        content = json.loads(header["plan"])
        steps = tuple(_step(entry) for entry in content["steps"])
        plan = Plan(steps, tensors, "input", input_shape or tuple(content["input_shape"]))
        used = {name for step in steps for name in step.tensors.values()}
        if used != set(tensors) or any(not t.is_floating_point() for t in tensors.values()):
            raise ValueError("its tensors are not those of its layers")
        written = _module(plan)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} cannot be read as a model: {reason}.") from None
    module = path.with_suffix(".py")
    if module.exists() and module.read_bytes() != written.encode():
        raise ValueError(f"{module} is not the module that belongs to {path}: it was changed.")
    return plan


def _content(plan: Plan) -> dict[str, Any]:
    keys = ("name", "kind", "inputs", "args", "tensors")
    steps = [{key: vars(step)[key] for key in keys} for step in plan.steps]
    return {"steps": steps, "input_shape": plan.input_shape}


def _step(entry: dict[str, Any]) -> Step:
    args = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["args"].items()}
    known = all(isinstance(v, str | int | float | tuple) for v in args.values())
    names = [entry["name"], *entry["inputs"], *entry["tensors"].values()]
    words = [part for name in [*names, *args] for part in name.split(".")]
    if not known or not all(word.isidentifier() for word in words) or "." in entry["name"]:
        raise ValueError("a layer has a name or argument that none has")
    return Step(entry["name"], entry["kind"], tuple(entry["inputs"]), args, entry["tensors"])


def _module(plan: Plan) -> str:
    """The Python file; it is made of known words and of numbers only."""
    PlainModel(plan)  # refuses what is no model
    kinds = {step.kind for step in plan.steps}
    functions = [text for kind, text in _FUNCTIONS.items() if kind in kinds]
    lines = ["", "class Model(nn.Module):", f'    """Takes (batch, {_shape(plan)})."""', ""]
    layers = [
        f"        self.{step.name} = nn.{step.kind}({_sizes(plan, step)})"
        for step in plan.steps
        if step.tensors
    ]
    if layers:
        lines += ["    def __init__(self):", "        super().__init__()", *layers, ""]
    lines += ["    def forward(self, input):"]
    lines += [f"        {step.name} = {_call(step)}" for step in plan.steps]
    lines += [f"        return {plan.steps[-1].name}", ""]
    tail = _TAIL.replace("{shared}", _shared(plan))
    return "\n".join([_HEAD, *functions, "\n".join(lines)]) + tail


def _shape(plan: Plan) -> str:
    return ", ".join(map(str, plan.input_shape))


def _shared(plan: Plan) -> str:
    """Lines that give the same tensors to every layer that shares them."""
    pairs = ((f"{s.name}.{role}", n) for s in plan.steps for role, n in sorted(s.tensors.items()))
    return "".join(f'    state["{own}"] = state["{name}"]\n' for own, name in pairs if own != name)


def _sizes(plan: Plan, step: Step) -> str:
    """The arguments of the layer's constructor, without those that have their default."""
    weight = plan.tensors[step.tensors["weight"]]
    rows, columns, *size = (*weight.shape, 1)[:2] + tuple(weight.shape[2:])
    options = {k: v for k, v in sorted(step.args.items()) if _DEFAULTS.get(k) != v}
    sizes: tuple[Any, ...] = (columns, rows)
    if step.kind == "Conv2d":
        sizes = (columns * step.args["groups"], rows, tuple(size))
    elif step.kind == "BatchNorm2d":
        sizes = (rows,)
    if "bias" not in step.tensors:
        options["bias"] = False
    words = [repr(v) for v in sizes] + [f"{k}={v!r}" for k, v in options.items()]
    if weight.dtype != torch.float32:
        words.append(f"dtype={weight.dtype}")
    return ", ".join(words)


def _call(step: Step) -> str:
    if step.tensors:
        return f"self.{step.name}({step.inputs[0]})"
    x, args = ", ".join(step.inputs), step.args
    if args.keys() != _ARGUMENTS.get(step.kind, set()):
        raise ValueError(f"`{step.name}` ({step.kind}) has other arguments than are written")
    return {
        "Add": lambda: " + ".join(step.inputs),
        "Scale": lambda: f"{args['factor']!r} * {x}",
        "Concatenate": lambda: f"torch.cat([{x}], 1)",
        "ReLU": lambda: f"F.relu({x})",
        "Flatten": lambda: f"{x}.flatten(1)",
        "ZeroPad2d": lambda: f"F.pad({x}, {args['padding']})",
        "AvgPool2d": lambda: f"F.avg_pool2d({x}, {args['kernel_size']}, {args['stride']})",
        "MaxPool2d": lambda: f"F.max_pool2d({x}, {args['kernel_size']}, {args['stride']})",
        "AdaptiveAvgPool2d": lambda: f"F.adaptive_avg_pool2d({x}, {args['output_size']})",
        "MaxMin": lambda: f"maxmin({x})",
        "GroupSort": lambda: f"group_sort({x}, {args['group_size']})",
        "InvertibleDownsample2d": lambda: f"F.pixel_unshuffle({x}, {args['factor']})",
        "PadToMultiple2d": lambda: f"pad_to_multiple({x}, *{args['multiple']})",
    }[step.kind]()
