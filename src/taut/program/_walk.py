"""One pass over a program: what each node may do to distances and to rounding errors, and why."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from taut.linalg.operator import NormBound
from taut.program._compose import Layer
from taut.program._op import KINDS, MODULES, AbstractOp, Rounding
from taut.program._program import Node, Program, Site
from taut.program._result import UnprovenError

__all__ = ["Progress", "bounds_of", "expanded", "layers_of", "operation", "parts_of", "refusals"]

Progress = Callable[[str, float], None]
"""Called with what is being bounded, and the share that is done."""


def operation(site: Site) -> AbstractOp:
    """The operation of a node.

    Raises:
        UnprovenError: if its kind is not known here: it is of a module that only the model has.
    """
    node = site.node
    if site.module is not None and type(site.module) in MODULES:
        return MODULES[type(site.module)]
    if node.op not in KINDS:
        raise UnprovenError(
            f"`{node.name}` is a {node.op}, which cannot be proven without the model; pass it."
        )
    return KINDS[node.op]


def parts_of(site: Site) -> list[Site]:
    """The operations that one is made of; the operation itself if it is made of none."""
    names = {name: site.tensors[role] for role, name in site.node.tensors.items()}
    shapes, sites = dict(zip(site.node.inputs, site.shapes, strict=True)), []
    for node in operation(site).parts(site):
        tensors = {role: names[name] for role, name in node.tensors.items()}
        sites.append(Site(node, tuple(shapes[name] for name in node.inputs), tensors))
        shapes[node.name] = node.shape
    return sites or [site]


def expanded(program: Program) -> Program:
    """The program in operations that are made of no others, as files hold it."""
    nodes = [part.node for site in program.sites() for part in parts_of(site)]
    return replace(program, nodes=tuple(nodes))


def bounds_of(site: Site) -> tuple[NormBound, ...]:
    """The proven gain of a node in each of its inputs."""
    with refusals(site):
        bounds = operation(site).bounds(site)
        if len(bounds) != len(site.shapes):
            raise UnprovenError(f"its op states {len(bounds)} gains for {len(site.shapes)} inputs")
        return bounds


@contextmanager
def refusals(site: Site) -> Iterator[None]:
    """Say of which node something has no proven bound."""
    try:
        yield
    except (UnprovenError, ValueError) as error:
        raise UnprovenError(_words(site.node, "has no proven bound", error)) from error


def layers_of(program: Program, *, real: bool, progress: Progress | None = None) -> list[Layer]:
    """One row for each node, as certificates have them.

    Args:
        program: of a model.
        real: whether rounding is left out.
        progress: called with each node before it is bounded.

    Raises:
        UnprovenError: naming the node without a bound.
    """
    layers: list[Layer] = []
    for site in program.sites():
        if progress is not None:
            progress(site.node.name, len(layers) / len(program.nodes))
        bounds = bounds_of(site)
        rounding = None if real else _rounding_of(site)
        node, kind = site.node, operation(site)
        gains = tuple(bound.value for bound in bounds)
        proof = max(bounds, key=lambda bound: bound.value).proof
        weight = site.tensors.get("weight")
        rows = 0 if weight is None or weight.dim() < 2 else max(weight.shape[:2])
        layer = Layer(
            node.name, node.type, node.inputs, gains, proof, kind.combine, entries=site.entries,
            rows=rows,
        )  # fmt: skip
        layers.append(layer.rounded(rounding))
    return layers


def _rounding_of(site: Site) -> Rounding:
    try:
        return operation(site).rounding(site)
    except (UnprovenError, ValueError) as error:
        raise UnprovenError(_words(site.node, "cannot be certified", error)) from error


def _words(node: Node, what: str, error: Exception) -> str:
    text = str(error).rstrip(".")
    if text.startswith(f"`{node.name}` is a "):
        return f"{text}."
    return f"`{node.name}` ({node.type}) {what}: {text}."
