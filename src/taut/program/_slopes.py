"""Lipschitz constants of the values of a program, by the sharpest of the rules that apply."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from taut.linalg.operator import NormBound, Proof
from taut.linalg.rounding import up_product, up_root_sum_square, up_sum
from taut.program._dense import region_bound, small_region
from taut.program._head import head_of
from taut.program._norm_bounds import Norms
from taut.program._program import Program, Site
from taut.program._result import UnprovenError
from taut.program._splits import Split, branch_program, split_of
from taut.program._walk import bounds_of, operation, refusals
from taut.program.passes._affine import Term, Terms, affine_terms, are_apart
from taut.program.passes._parts import (
    Half,
    Part,
    State,
    expanded,
    half_of,
    joined,
    merged,
    pairs,
    scaled,
    total,
)

__all__ = ["Slopes", "Step"]

_ENOUGH = 1 + 1e-5
"""A gain up to which a region counts as orthogonal, and needs no matrix."""


@final
@dataclass(frozen=True)
class Step:
    """How the constant of a value follows from those of earlier ones.

    Attributes:
        nodes: names of the operations that are one step, the last that of the value.
        inputs: the earlier values.
        bounds: the gain in each of them.
        value: what the step gives for the constant.
        state: the same by parts.
        by: the pass that it comes from; "" for the plain rule.
    """

    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    bounds: tuple[NormBound, ...]
    value: float
    state: State
    by: str = ""


@final
class Slopes:
    """Lipschitz constants of the values that the output of a program needs.

    Args:
        program: of a model.
        norms: bounds of its maps, shared by all calls of `compute`.
        affine: whether affine neighbours are composed.
        parts: whether values that are split and joined are followed by parts.
    """

    def __init__(self, program: Program, norms: Norms, *, affine: bool, parts: bool) -> None:
        self.program, self.norms, self.affine, self.parts = program, norms, affine, parts
        self.shapes = program.shapes
        self.sites = {site.node.name: site for site in program.sites()}
        self.terms: Mapping[str, Terms] = affine_terms(program) if affine else {}
        joins = [name for name, site in self.sites.items() if site.node.op == "concat" and parts]
        found = {name: split_of(program, name) for name in joins}
        self.splits = {name: split for name, split in found.items() if split is not None}
        self.needed = self._needed()

    def _needed(self) -> set[str]:
        """The values whose constants are asked for: not those inside of a step."""
        needed, open_ = {self.program.source}, [self.program.output]
        head = head_of(self.program)
        open_ += [] if head is None else [head.source]  # constants of pairs of logits start there
        while open_:
            name = open_.pop()
            if name not in needed:
                needed.add(name)
                terms = self.terms.get(name) or {}
                open_ += terms
                open_ += [self.splits[name].source] if name in self.splits else []
                open_ += self.sites[name].node.inputs if len(terms) != 1 else ()
        return needed

    def compute(self) -> None:
        """Find all constants, with the norm bounds that are known now."""
        source = self.program.source
        self.slopes: dict[str, float] = {source: 1.0}
        self.states: dict[str, State] = {source: {Part(source): 1.0}}
        self.steps: dict[str, Step] = {}
        for name, site in self.sites.items():
            if name in self.needed:
                self._add(site)

    def _add(self, site: Site) -> None:
        name = site.node.name
        steps = [step for step in self._ways(site) if step is not None]
        terms = self.terms.get(name) or {}
        if self.affine and not (terms and all(map(self._is_first, terms))):
            dense = self._dense(site, min(step.value for step in steps))
            steps += [dense] if dense is not None else []
        best = min(steps, key=lambda step: (step.value, not step.state))
        if name in self.splits:
            split = self._split(site, self.splits[name])
            best = split if split.value < best.value * (1 - 1e-9) else best
        if not best.value >= 0:
            raise UnprovenError(f"`{name}` ({site.node.type}) has no finite bound.")
        self.steps[name], self.slopes[name] = best, best.value
        self.states[name] = best.state if best.state else {Part(name): 1.0}

    def _ways(self, site: Site) -> "list[Step | None]":
        """All rules that say something of a value."""
        name = site.node.name
        terms = self.terms.get(name) or {}
        ways = [self._by_terms(site, terms) if terms else None]
        alone = all(term.nodes == (name,) for term in terms.values())
        if len(terms) > 1 or not terms or (not alone and self._is_known(site)):
            ways.append(self._plain(site))
        if self.parts and site.node.op == "concat" and self._is_known(site):
            ways.append(self._joined(site))
        return ways

    def _is_first(self, name: str) -> bool:
        """Whether a value is no affine map of another one."""
        return name == self.program.source or not operation(self.sites[name]).affine

    def _is_known(self, site: Site) -> bool:
        """Whether the plain rule of an operation costs next to nothing here."""
        free = site.node.op in ("add", "concat")
        return free and all(name in self.slopes for name in site.node.inputs)

    # The rules.

    def _plain(self, site: Site) -> Step:
        """The gains of the operation."""
        kind, node = operation(site), site.node
        bounds = self._bounds(site)
        slopes = [self.slopes[name] for name in node.inputs]
        value = _combined(kind.combine, bounds, slopes)
        state = self._state(site, bounds, kind.combine)
        return self._step((node.name,), node.inputs, bounds, value, state)

    def _bounds(self, site: Site) -> tuple[NormBound, ...]:
        """The gains; those of linear operations may be tightened later."""
        if len(site.shapes) != 1:
            return bounds_of(site)
        operator = operation(site).operator(site)
        rule = (Proof(lambda: bounds_of(site)[0], repeated=True),)
        with refusals(site):
            proofs = rule if operator is None else operator.proofs()
            return (self.norms.bound(site.node.name, proofs, operator),)

    def _state(self, site: Site, bounds: tuple[NormBound, ...], combine: str) -> State:
        node = site.node
        if not self.parts:
            return {}
        if node.op == "slice":
            return {_sliced(site): 1.0}
        states = [
            scaled(self.states[name], bound.value)
            for name, bound in zip(node.inputs, bounds, strict=True)
        ]
        if len(states) == 1:
            return states[0]
        if combine == "root":
            return joined(states)
        return (merged(*states) or {}) if len(states) == 2 else {}

    def _by_terms(self, site: Site, terms: Terms) -> Step:
        """Convolutions of earlier values."""
        name, bounds, states = site.node.name, [], []
        for source, term in terms.items():
            bound = self._term_bound(site, source, term)
            bounds.append(bound)
            places = _bits(term.map.reads)
            axis = len(self.shapes[source]) - 1 if term.last else 0
            read = self.states[source] if places == -1 else {Part(source, axis, places): 1.0}
            states.append(scaled(read, bound.value))
        apart = len(terms) > 1 and are_apart(terms)
        slopes = [self.slopes[source] for source in terms]
        value = _combined("root" if apart else "sum", tuple(bounds), slopes)
        state: State = {}
        if self.parts:
            if len(states) == 1 or apart:
                state = joined(states)
            elif len(states) == 2:
                state = merged(*states) or {}
        nodes = {name} | {node for term in terms.values() for node in term.nodes}
        order = [node for node in self.sites if node in nodes]
        return self._step(tuple(order), tuple(terms), tuple(bounds), value, state)

    def _term_bound(self, site: Site, source: str, term: Term) -> NormBound:
        """Of an operation by itself its own rule."""
        name = site.node.name
        if term.nodes == (name,) and site.node.inputs == (source,):
            return self._bounds(site)[0]
        return self.norms.bound(
            f"{source} -> {term.name}\0",
            term.map.proofs(),
            term.map.operator,
        )

    def _joined(self, site: Site) -> Step:
        """Values side by side, by parts; two halves of one count as one."""
        names = [n for i, n in enumerate(site.node.inputs) if i in site.args["parts"]]
        halves = [self._half(name) for name in names]
        both = pairs(halves)
        states = []
        for number, (name, half) in enumerate(zip(names, halves, strict=True)):
            if number in both.values():
                continue
            if number in both and half is not None:
                states.append(joined(self.states[read] for read in half.read))
            else:
                states.append(self.states[name])
        state = joined(states)
        bounds = (NormBound(1.0, "parts that are followed by themselves"),) * len(names)
        return self._step((site.node.name,), tuple(names), bounds, float("inf"), state)

    def _split(self, site: Site, split: Split) -> Step:
        """Branches of slices of one value, each as a program of its own."""
        gains = [1.0]
        for branch in split.branches:
            part = branch_program(self.program, branch)
            if part is not None:
                inner = Slopes(part, self.norms, affine=self.affine, parts=self.parts)
                inner.compute()
                gains.append(inner.slopes[part.output])
        bound = NormBound(max(gains), "parts of one value, side by side")
        value = up_product(bound.value, self.slopes[split.source])
        state = scaled(self.states[split.source], bound.value)
        nodes = (*(n for n in self.sites if any(n in b.inside for b in split.branches)),)
        return self._step((*nodes, site.node.name), (split.source,), (bound,), value, state)

    def _half(self, name: str) -> Half | None:
        """What half a value is, behind reshapes and permutations, which move entries alone."""
        while name in self.sites:
            node = self.sites[name].node
            if node.op not in ("reshape", "permute"):
                before = self.sites.get(node.inputs[0])
                half = half_of(node, before and before.node, self.shapes)
                known = half is not None and all(read in self.states for read in half.read)
                return half if known else None
            name = node.inputs[0]
        return None

    def _dense(self, site: Site, most: float) -> Step | None:
        """The matrix of all affine operations up to one earlier value, where it is small.

        None where the constant `most` that is known is that of the earlier value already.
        """
        region = small_region(self.program, self.sites, site.node.name)
        slope = self.slopes.get(region.source) if region is not None else None
        if region is None or slope is None or most <= slope * _ENOUGH:
            return None
        bound = region_bound(self.program, self.sites, region)
        if bound is None:
            return None
        state = scaled({Part(region.source): 1.0}, bound.value) if self.parts else {}
        value = up_product(bound.value, slope)
        return self._step(region.nodes, (region.source,), (bound,), value, state)

    def _step(
        self,
        nodes: tuple[str, ...],
        inputs: tuple[str, ...],
        bounds: tuple[NormBound, ...],
        value: float,
        state: State,
    ) -> Step:
        """A step with the smaller of its constant and that of its state, as far back as it goes."""
        by, now = "compose_affine" if len(nodes) > 1 else "", state or None
        while now is not None:
            followed = total(now, self.slopes)
            if followed < value * (1 - 1e-12):
                value, by = followed, "follow_parts"
            now = expanded(now, self.states)
        return Step(nodes, inputs, bounds, value, state, by)

    def used(self) -> list[Step]:
        """The steps that the constant of the output is made of, in their order."""
        needed, used = {self.program.output}, []
        for name in reversed(list(self.steps)):
            if name in needed:
                used.append(self.steps[name])
                needed.update(self.steps[name].inputs)
        return used[::-1]

    def excess(self, step: Step) -> float | None:
        """How many times its norm the bound of a step may be, where there is an estimate."""
        shares = [self.norms.excess(bound) for bound in step.bounds]
        return shares[0] if len(shares) == 1 else None


def _combined(combine: str, bounds: tuple[NormBound, ...], slopes: list[float]) -> float:
    terms = [up_product(b.value, s) for b, s in zip(bounds, slopes, strict=True)]
    return (up_sum if combine == "sum" else up_root_sum_square)(*terms)


def _sliced(site: Site) -> Part:
    """The part of a value that a slice is."""
    args = site.args
    places = sum(1 << i for i in range(args["start"], args["stop"], args["step"]))
    return Part(site.node.inputs[0], args["axis"], places)


def _bits(channels) -> int:
    """Which channels are read, as the bits of a number; -1 for all."""
    if bool(channels.all()):
        return -1
    return sum(1 << i for i in channels.nonzero().flatten().tolist())
