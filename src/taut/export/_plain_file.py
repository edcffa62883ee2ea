"""Programs as safetensors, with a file of plain torch beside them."""

import json
from pathlib import Path
from typing import Any

import torch

from taut.export._naming import LAYERS
from taut.files import load_tensors, save_tensors, write_atomically
from taut.program import (
    Program,
    Site,
    canonical,
    checked_program,
    expanded,
    operation,
    parts_of,
)
from taut.program.ops._image_padding import fits_layer

__all__ = ["check_form", "program_of_tensors", "save_plain"]

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


def save_plain(program: Program, path: Path) -> list[Path]:
    """Write the tensors, with the program in their header, and a module of plain torch."""
    text = canonical({"graph": program.content(), "input_shape": list(program.input_shape)})
    module = path.with_suffix(".py")
    source = module_text(program)
    save_tensors(path, dict(program.tensors), {"format": "pt", "program": text})
    write_atomically(module, source.encode())
    return [path, module]


def program_of_tensors(path: Path, input_shape: tuple[int, ...] | None = None) -> Program:
    """Read the program in the header and the tensors; a module beside them must be theirs.

    The header alone is enough to prove. The Python file, where there is one, is compared with the
    text that the program gives, letter by letter, and never run.
    """
    tensors, header = load_tensors(path)
    if "plan" in header:
        raise ValueError(
            f"{path} was written by taut 0.1, in another form; export the model again."
        )
    if "program" not in header:
        raise ValueError(f"{path} was not written by `taut export`: it holds no list of layers.")
    try:
        content = json.loads(header["program"])
        program = checked_program(
            content["graph"], tuple(input_shape or content["input_shape"]), tensors
        )
        used = {name for node in program.nodes for name in node.tensors.values()}
        if used != set(tensors):
            raise ValueError("its tensors are not those of its operations")
        written = module_text(program)
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RecursionError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} cannot be read as a model: {reason}.") from None
    module = path.with_suffix(".py")
    if module.exists() and module.read_bytes() != written.encode():
        raise ValueError(f"{module} is not the module that belongs to {path}: it was changed.")
    return program


def module_text(program: Program) -> str:
    """The Python file; it is made of known words and of numbers only."""
    program = expanded(program)
    sites = program.sites()
    lines = [
        "",
        "class Model(nn.Module):",
        f'    """Takes (batch, {_sizes(program.input_shape)})."""',
        "",
    ]
    held = [line for site in sites for line in _held(site)]
    if held:
        lines += ["    def __init__(self):", "        super().__init__()", *held, ""]
    lines += ["    def forward(self, input):"]
    lines += [f"        {site.node.name} = {_expression(site)}" for site in sites]
    lines += [f"        return {program.output}", ""]
    helpers = dict.fromkeys(operation(site).helper for site in sites if operation(site).helper)
    tail = _TAIL.replace("{shared}", _shared(program))
    return "\n".join([_HEAD, *helpers, "\n".join(lines)]) + tail


def check_form(site: Site) -> None:
    """Refuse an operation that has no form in plain torch."""
    for part in parts_of(site):
        _expression(part)
        _held(part)


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _expression(site: Site) -> str:
    names = (
        site.node.name,
        *site.node.inputs,
        *(p for n in site.node.tensors.values() for p in n.split(".")),
    )
    if not all(name.isidentifier() for name in names):
        raise ValueError(f"`{site.node.name}` has an invalid name")
    try:
        return operation(site).source(site, *site.node.inputs)
    except ValueError as error:
        where = f"`{site.node.name}` ({site.node.type or site.node.op})"
        raise ValueError(f"{where} cannot be exported: {str(error).rstrip('.')}.") from None


def _held(site: Site) -> list[str]:
    """Lines that make the layer of an operation, or the buffers of its tensors."""
    name = site.node.name
    if site.node.op in LAYERS:
        return [f"        self.{name} = {_layer(site)}"]
    return [
        f"        self.register_buffer({f'{name}_{role}'!r}, "
        f"torch.zeros({tuple(tensor.shape)}, dtype={tensor.dtype}))"
        for role, tensor in site.tensors.items()
    ]


def _layer(site: Site) -> str:
    """The layer of torch, without the arguments that have their default."""
    args, weight = site.args, site.tensors.get("weight")
    options: dict[str, Any] = {}
    if site.node.op == "batch_norm":
        if weight is None or "bias" not in site.tensors:
            raise ValueError(
                f"`{site.node.name}` (BatchNorm) cannot be exported: it must have a scale."
            )
        axes, sizes = len(site.shapes[0]) - 1, [len(weight)]
        name = f"BatchNorm{max(1, axes)}d"
        options = {} if args["eps"] == 1e-5 else {"eps": args["eps"]}
    else:
        assert weight is not None
        rows, columns, kernel = weight.shape[0], weight.shape[1], tuple(weight.shape[2:])
        name, sizes = "Linear", [columns, rows]
        if site.node.op != "linear":
            name, sizes, options = _convolution(site, rows, columns, kernel)
        if "bias" not in site.tensors:
            options["bias"] = False
    words = [repr(v) for v in sizes] + [f"{k}={v!r}" for k, v in options.items()]
    if weight.dtype != torch.float32:
        words.append(f"dtype={weight.dtype}")
    return f"nn.{name}({', '.join(words)})"


def _convolution(
    site: Site, rows: int, columns: int, kernel: tuple[int, ...]
) -> tuple[str, list, dict]:
    args, ones = site.args, [1] * len(kernel)
    transposed = site.node.op == "conv_transpose"
    groups, padding = args["groups"], args["padding"]
    options = {k: tuple(args[k]) for k in ("dilation", "stride") if args[k] != ones}
    options |= {"groups": groups} if groups > 1 else {}
    if transposed:
        sizes = [rows, columns * groups, kernel]
        options |= {k: tuple(args[k]) for k in ("padding", "output_padding") if any(args[k])}
        return f"ConvTranspose{len(kernel)}d", sizes, options
    if fits_layer(site) and any(padding["left"]):
        options["padding"] = tuple(padding["left"])
        options |= {} if padding["mode"] == "zeros" else {"padding_mode": padding["mode"]}
    return f"Conv{len(kernel)}d", [columns * groups, rows, kernel], options


def _shared(program: Program) -> str:
    """Lines that give tensors to each layer or buffer that is not called as they are."""
    lines = []
    for node in program.nodes:
        for role, name in sorted(node.tensors.items()):
            own = f"{node.name}.{role}" if node.op in LAYERS else f"{node.name}_{role}"
            if own != name:
                lines.append((own, name))
    own_names = {
        n
        for node in program.nodes
        for n in (f"{node.name}.{r}" if node.op in LAYERS else "" for r in node.tensors)
    }
    text = "".join(f'    state["{own}"] = state["{name}"]\n' for own, name in lines)
    gone = [name for name in dict.fromkeys(name for _, name in lines) if name not in own_names]
    return text + "".join(f'    del state["{name}"]\n' for name in gone)
