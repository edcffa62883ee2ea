"""The Lipschitz bound of a whole model, and the spectrum of a linear one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._sharding import gathers
from taut.linalg.operator import DENSE_LIMIT, AbstractOperator
from taut.program._check import checked_record
from taut.program._dense import dense_matrix
from taut.program._head import pairs_of
from taut.program._norm_bounds import WORK, Effort, Norms
from taut.program._op import AbstractOp
from taut.program._parametrized import settled
from taut.program._program import LARGEST, Program, Site, canonical, program_from
from taut.program._replay import ProgramModule
from taut.program._result import LayerBound, LipschitzBound, UnprovenError
from taut.program._slopes import Slopes, Step
from taut.program._walk import Progress, bounds_of, operation
from taut.program.passes import changes, pass_names, rewritten

__all__ = [
    "bound_of",
    "checked_program",
    "lipschitz_bound",
    "single_operator",
    "singular_values",
    "trace",
    "verifiable_bound",
]


def trace(model: nn.Module, input_shape: tuple[int, ...], *, through: bool = False) -> Program:
    """Trace a model: record the operations that its forward calls, with copies of its weights.

    The forward is run for real, on a few random inputs; see docs/certificates.md for what is
    followed and what is refused.

    Args:
        model: takes one tensor, batch first; in eval mode where that matters.
        input_shape: shape of one input, without the batch.
        through: whether to follow the forwards of modules that you registered an op for, instead of
            having one operation for each; exported files hold no op of yours.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) naming what cannot be followed.
        ValueError: if the input shape does not fit, or has a 0 in it.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> [node.op for node in trace(model, (1, 2, 2)).nodes]
        ['reshape', 'linear']
    """
    shape = _checked_shape(input_shape)
    return _checked_operators(rewritten(checked_record(model, shape, through=through)))


def _checked_operators(program: Program) -> Program:
    """Refuse parts of functions that no pass knows, and modules with another operator."""
    for site in program.sites():
        if operation(site).partial:
            bounds_of(site)
        _check_operator(site)
    return program


def checked_program(
    graph: Mapping[str, Any], shape: tuple[int, ...], tensors: Mapping[str, Tensor]
) -> Program:
    """The program of a file, checked to be one that a model can have.

    It is run and recorded: what is recorded must be what the file says, operation by operation,
    argument by argument and tensor by tensor.

    Args:
        graph: as `Program.content` has it.
        shape: of one input.
        tensors: by name.

    Raises:
        UnprovenError: if an operation has no proven bound, or only the model has it.
        ValueError: if the graph is none, or no model computes it.
    """
    program = program_from(graph, _checked_shape(shape), tensors)
    if canonical(program.content()) != canonical(graph):
        raise ValueError("The graph holds invalid entries.")
    _check_shapes(program)
    again = trace(ProgramModule(_wide(program)), program.input_shape)
    said, recorded = _numbered(program), _numbered(again)
    for node, one, other in zip(program.nodes, said, recorded, strict=False):
        if one != other:
            raise ValueError(f"`{node.name}` ({node.op}) does not compute what the graph states.")
    same = len(said) == len(recorded) and all(
        torch.equal(program.tensors[a].to(again.tensors[b].dtype), again.tensors[b])
        for one, other in zip(program.nodes, again.nodes, strict=True)
        for a, b in ((one.tensors[role], other.tensors[role]) for role in one.tensors)
    )
    if not same:
        raise ValueError("The graph holds operations that its output does not depend on.")
    return program


def _wide(program: Program) -> Program:
    """The program in float64, its tensors under names that no attribute has."""
    names = {name: f"tensor{i}" for i, name in enumerate(program.tensors)}
    tensors = {
        names[name]: t.double() if t.is_floating_point() else t
        for name, t in program.tensors.items()
    }
    nodes = (
        replace(node, tensors={role: names[name] for role, name in node.tensors.items()})
        for node in program.nodes
    )
    return replace(program, nodes=tuple(nodes), tensors=tensors)


def _check_shapes(program: Program) -> None:
    """Run a program without numbers, so that nothing larger than it says is ever made."""
    meta = {name: t.to("meta") for name, t in program.tensors.items()}
    values = {
        program.source: torch.empty(1, *program.input_shape, dtype=torch.float64, device="meta")
    }
    for site in replace(program, tensors=meta).sites():
        node, inputs = site.node, [values[name] for name in site.node.inputs]
        sides: list[Any] = []  # of a padded image that is nobody's value
        if node.op == "conv":
            sides = [node.args["padding"][key] for key in ("left", "right", "extend")]
        if node.op == "conv_transpose":
            sides = node.args["wrap"] or []
        sizes = [sum(n) for n in zip(site.shapes[0][1:], *sides, strict=True)]
        if sides and math.prod(sizes) * site.shapes[0][0] > LARGEST:
            raise ValueError(f"`{node.name}` pads its image to more than {LARGEST} numbers.")
        value = operation(site).run(site, *inputs)
        if value.shape != (1, *node.shape):
            raise ValueError(f"`{node.name}` makes {tuple(value.shape[1:])}, not {node.shape}.")
        values[node.name] = value


def _numbered(program: Program) -> list[str]:
    """The nodes without names: inputs by the number of their node, tensors by their roles."""
    number = {node.name: i for i, node in enumerate(program.nodes)} | {program.source: -1}
    contents = []
    for node in program.nodes:
        inputs = [number[name] for name in node.inputs]
        content = node.content() | {"inputs": inputs, "tensors": sorted(node.tensors)}
        content |= {"name": "", "type": "", "output": node.name == program.output}
        contents.append(canonical(content))
    return contents


def _checked_shape(shape: Any) -> tuple[int, ...]:
    """One convention for shapes: that of one input, without the batch."""
    if isinstance(shape, Integral | Tensor) or not all(isinstance(n, Integral) for n in shape):
        what = tuple(shape.shape) if isinstance(shape, Tensor) else shape
        raise ValueError(
            f"`input_shape` must be the shape of one input, without the batch; got {what}."
        )
    if any(n < 1 for n in shape):
        raise ValueError(f"`input_shape` must be made of positive integers; got {tuple(shape)}.")
    return tuple(int(n) for n in shape)


def _check_operator(site: Site) -> None:
    """Refuse an operator of a registered module that is not what its forward does."""
    kind = operation(site)
    operator = None if site.module is None else kind.operator(site)
    if operator is None:
        return
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *site.shapes[0], generator=generator, dtype=torch.float64, device="cpu")
    moved = kind.run(site, x) - kind.run(site, torch.zeros_like(x))
    slices = x.reshape(-1, *operator.in_shape)
    expected = operator.apply(slices).reshape(moved.shape)
    if not torch.allclose(moved, expected, 1e-5, 1e-5 * float(expected.abs().max())):
        raise UnprovenError(
            f"`{site.node.name}` ({site.node.type}) has an operator that differs from the "
            "output of the model: its op and its forward disagree."
        )


@gathers
def lipschitz_bound(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    passes: Sequence[str] | None = None,
    tight: bool = False,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> LipschitzBound:
    r"""Prove an upper bound of the l2 Lipschitz constant of a model.

    Affine neighbours (convolutions, matrices, batch norms in eval mode, factors, pools, sums) are
    composed before they are bounded; what is split and joined is followed by parts; everything
    else multiplies, adds, or counts as the root of the sum of squares. Each factor is a norm bound
    of the weights as they are now, never a guarantee read from a layer. Weights that torch computes
    anew in each call (`torch.nn.utils.parametrize`), and moves, are read once;
    :func:`taut.freeze` keeps them.

    Args:
        model: made of modules and functions that have a rule; in eval mode where that matters.
        input_shape: shape of one input, without the batch.
        passes: names of those of `taut.program.PASSES` that are used, all by default; () gives the
            plain product of the layers.
        tight: whether all zeros and copies at borders are bounded as tightly as can be, which may
            take minutes for large images; by default those only that take seconds together.
        seconds: time for all, up to one proof: bounds are coarse first, and sharpened where that
            promises most for its time. The model is recorded and checked in any case.
        progress: called with the name of what is being bounded and the share that is done.

    Returns:
        The bound: `float(b)`, and `b.layers`, one row for each step; `print` it.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if anything has no proven bound; it is
            named.
        ValueError: if the input shape does not fit, or an argument is wrong.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU())
        >>> with torch.no_grad():
        ...     _ = model[1].weight.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 2.0, 0, 0]]))
        >>> round(float(lipschitz_bound(model, (1, 2, 2))), 6)
        3.0
    """
    names = pass_names(passes)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (number and seconds >= 0):
        raise ValueError(f"`seconds` must be a number of at least 0, or None; got {seconds!r}.")
    effort = Effort(seconds, math.inf if tight else WORK)
    recorded = checked_record(settled(model), _checked_shape(input_shape))
    program = _checked_operators(rewritten(recorded, names))
    changed = changes(recorded, names)
    bound = bound_of(program, passes=names, effort=effort, progress=progress)
    return replace(bound, passes=(*changed, *bound.passes))


@gathers
def verifiable_bound(model: nn.Module, input_shape: tuple[int, ...]) -> LipschitzBound:
    """The product of the layer bounds, from proofs that are quick to verify; see `prove`.

    Example:
        >>> float(verifiable_bound(nn.ReLU(), (3,)))
        1.0
    """
    return bound_of(trace(model, input_shape), passes=(), effort=Effort(work=0.0))


def bound_of(
    program: Program,
    *,
    passes: Sequence[str],
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> LipschitzBound:
    """The bound of a program that is already rewritten; see `lipschitz_bound`."""
    effort = effort or Effort()
    norms = Norms(effort, progress)
    slopes = Slopes(
        program, norms, affine="compose_affine" in passes, parts="follow_parts" in passes
    )
    slopes.compute()
    if effort.work or effort.seconds is not None:
        norms.tighten()
        slopes.compute()
    rows = [row for step in slopes.used() if (row := _row(slopes, step)) is not None]
    used = [name for name in ("compose_affine", "follow_parts")
            if any(step.by == name for step in slopes.used())]  # fmt: skip
    total = slopes.slopes[program.output]
    return LipschitzBound(total, tuple(rows), pairs_of(program, slopes.slopes), tuple(used))


def _row(slopes: Slopes, step: Step) -> LayerBound | None:
    """The row of a step; functions that stretch nothing have none."""
    nodes = [slopes.sites[name].node for name in step.nodes]
    last = nodes[-1]
    largest = max(slopes.slopes[name] for name in step.inputs)
    total = slopes.slopes[last.name]
    gain = step.bounds[0].value if len(step.bounds) == 1 else total / largest if largest else total
    if all(node.path != node.name for node in nodes) and gain == 1.0:
        return None
    proof = max(step.bounds, key=lambda bound: bound.value).proof
    types = " + ".join(dict.fromkeys(node.type for node in nodes))
    return LayerBound(last.name, types, gain, proof, slopes.excess(step))


@gathers
def singular_values(module: nn.Module, input_shape: tuple[int, ...]) -> Float[Tensor, " s"]:
    r"""Compute the exact singular values of a linear module as an operator on inputs of one shape.

    The operator is what forward does, with padding, stride, dilation and groups, without the bias.
    Convolutions and matrices go by their own spectrum; any other affine module, and any model made
    of affine modules and functions, is written out densely.

    Args:
        module: affine in its input.
        input_shape: shape of one input, without the batch.

    Returns:
        min(outputs, inputs) values in float64, descending.

    Raises:
        UnprovenError: (a NotImplementedError) if a part has no rule or is not linear; it is named.
        ValueError: if the input shape does not fit, or the dense operator would be too large.

    Example:
        >>> layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
        >>> with torch.no_grad():
        ...     _ = layer.weight.fill_(1.0)
        >>> singular_values(layer, (1, 4, 4))[0].round(decimals=6).item()
        9.0
    """
    program = trace(module, input_shape)
    sites = program.sites()
    for site in sites:
        bounds_of(site)
        _check_linear(site, operation(site))
    operator = single_operator(program)
    if operator is not None:
        copies = math.prod(program.input_shape) // math.prod(operator.in_shape)
        return operator.singular_values().repeat_interleave(copies)
    return torch.linalg.svdvals(dense(program))


_PERMUTATIONS = ("permute", "reshape")


def single_operator(program: Program) -> AbstractOperator | None:
    """The operator on a slice of the input, if the program is one linear operation on each.

    Permutations in front of it and behind it do not count: they change no singular value.
    """
    sites = [site for site in program.sites() if site.node.op not in _PERMUTATIONS]
    operator = operation(sites[0]).operator(sites[0]) if len(sites) == 1 else None
    if operator is None:
        return None
    read, written = sites[0].entries
    copies = read // math.prod(operator.in_shape)
    whole = (copies * math.prod(operator.in_shape), copies * math.prod(operator.out_shape))
    return operator if (read, written) == whole else None


def _check_linear(site: Site, kind: AbstractOp) -> None:
    if not kind.affine and kind.operator(site) is None:
        raise UnprovenError(
            f"`{site.node.name}` ({site.node.type}) has no singular values: it is not linear."
        )


def dense(program: Program) -> Float[Tensor, "m n"]:
    """The matrix of an affine program."""
    inputs = math.prod(program.input_shape)
    outputs = math.prod(program.shapes[program.output])
    if outputs * inputs > DENSE_LIMIT:
        raise ValueError(
            f"`input_shape` must be smaller: the dense operator may have at most {DENSE_LIMIT} "
            f"entries; got {outputs} x {inputs}."
        )
    return dense_matrix(program)
