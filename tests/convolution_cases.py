"""Tables of convolutions: all values of each argument against all values of each other."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from convolution_oracles import Case, isometry, only_shifts

SHAPES = {  # kernel size, stride: of the first axes where there are less than three
    "point": ((1, 1, 1), (1, 1, 1)),
    "odd": ((3, 3, 2), (1, 1, 1)),
    "even": ((2, 4, 2), (1, 1, 1)),
    "patches": ((2, 2, 2), (2, 2, 2)),
    "divided": ((4, 2, 2), (2, 1, 2)),
    "not divided": ((3, 3, 3), (2, 2, 2)),
    "far from divided": ((5, 3, 1), (3, 2, 1)),
    "stride above kernel": ((2, 1, 2), (3, 2, 1)),
    "one above": ((3, 2, 2), (2, 3, 1)),
}
FACTORS: dict[str, list] = {
    "axes": [1, 2, 3],
    "transposed": [False, True],
    "padding": ["same", "valid", "half", "full", "mixed"],
    "mode": ["circular", "zeros", "reflect", "replicate"],
    "shape": list(SHAPES),
    "dilation": [(1, 1, 1), (2, 2, 2), (3, 3, 3), (1, 2, 1)],
    "groups": [1, 2, 3],
    "ratio": ["narrow", "equal", "all phases", "square", "above"],
    "size": ["divided", "odd", "small"],
    "output_padding": [0, 1],
    "raw": ["gaussian", "huge", "tiny", "12 decades", "rank-deficient", "zero"],
}
_TARGETS = {1: 9, 2: 6, 3: 3}
_TRIES, _VALID_TRIES = 800, 12


def case_of(values: dict[str, Any]) -> Case:
    """The layer that has these values of the factors."""
    axes = values["axes"]
    kernel, stride = (sizes[:axes] for sizes in SHAPES[values["shape"]])
    dilation = values["dilation"][:axes]
    inputs, outputs = _channels(values["ratio"], kernel, stride, dilation)
    channels = (outputs, inputs) if values["transposed"] else (inputs, outputs)
    more = tuple(min(values["output_padding"], s - 1) for s in stride)
    return Case(
        channels[0] * values["groups"],
        channels[1] * values["groups"],
        kernel,
        stride,
        _size(values, kernel, stride),
        _padding(values["padding"], kernel, dilation),
        dilation,
        values["groups"],
        values["mode"],
        values["transposed"],
        more,
    )


def _channels(ratio: str, kernel, stride, dilation) -> tuple[int, int]:
    """Channels of the convolution, in each group."""
    axes = zip(kernel, stride, dilation, strict=True)
    read = math.prod(min(k, s // math.gcd(s, d)) for k, s, d in axes)
    phases = math.prod(stride)
    few = 1 if phases > 4 else 2
    return {
        "narrow": (3, 1),
        "equal": (2, 2),
        "all phases": (few, few * read),
        "square": (1, phases),
        "above": (1, phases + 1),
    }[ratio]


def _size(values: dict[str, Any], kernel, stride) -> tuple[int, ...]:
    if values["transposed"]:
        target = {"divided": 4 - values["axes"] // 2, "odd": 2, "small": 1}[values["size"]]
        return (target + (values["axes"] < 3), *[target] * (values["axes"] - 1))
    if values["size"] == "small":
        return tuple(max(1, k - 1) for k in kernel)
    target = _TARGETS[values["axes"]]
    sizes = [s * -(-target // s) for s in stride]
    sizes[0] += stride[0] * (values["axes"] == 2)
    if values["size"] == "odd":
        sizes = [n - 1 if s > 1 else n + 1 - n % 2 for n, s in zip(sizes, stride, strict=True)]
    return tuple(sizes)


def _padding(kind: str, kernel, dilation) -> str | tuple[int, ...]:
    if kind in ("same", "valid"):
        return kind
    full = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if kind == "full":
        return tuple(full)
    half = [p // 2 for p in full]
    return tuple(half) if kind == "half" else (*([0] * (len(half) > 1)), *half[-2:])[: len(half)]


def allowed(case: Case) -> bool:
    """Whether padding, its mode and the output padding go together, on any size."""
    if case.transposed and case.mode not in ("circular", "zeros"):
        return False
    if case.padding == "same":
        return not (case.transposed and any(case.output_padding))
    axes = zip(
        case.pads(), case.kernel, case.stride, case.dilation, case.output_padding, strict=False
    )
    if case.mode != "circular":
        return True
    if case.transposed:  # as many outputs as the periodic domain has
        return all(2 * p + s - more == d * (k - 1) + 1 for p, k, s, d, more in axes)
    return all(2 * p <= d * (k - 1) for p, k, _, d, _ in axes)


def orthogonal(case: Case) -> bool:
    """Whether an orthogonal kernel exists that can be trained."""
    return isometry(case) != "neither" and not only_shifts(case)


def fits(case: Case) -> bool:
    """Whether the size has an output, and a transposed layer gives the one that was asked for."""
    lines = case.convolution().lines()
    if not all(line.fits for line in lines):
        return False
    return not case.transposed or tuple(line.outputs for line in lines) == case.size


def normal(values: dict[str, Any]) -> bool:
    """Whether no factor is without effect, so that each case stands once."""
    more = values["output_padding"] and not (values["transposed"] and values["padding"] != "same")
    return not more


def complete(values: dict[str, Any]) -> bool:
    """Whether the values give a layer that must work."""
    case = case_of(values)
    return normal(values) and allowed(case) and orthogonal(case) and fits(case)


def pairwise(
    factors: dict[str, list], valid: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Valid choices in which each pair of values occurs that can; always the same ones."""
    generator, chosen = random.Random(0), []
    pairs = [
        ((a, i), (b, j))
        for a, b in itertools.combinations(factors, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    ]
    missing = set(pairs)
    for pair in pairs:
        if pair in missing:
            found = _best(factors, dict(pair), valid, missing, generator)
            if found is not None:
                missing -= set(itertools.combinations(found.items(), 2))
                chosen.append(found)
    return [{name: factors[name][i] for name, i in found.items()} for found in chosen]


def _best(factors, fixed, valid, missing, generator) -> dict[str, int] | None:
    """Of some random valid choices the one with the most pairs that are missing."""
    best, most, seen = None, -1, 0
    for _ in range(_TRIES):
        found = {
            name: fixed.get(name, int(generator.random() * len(values)))
            for name, values in factors.items()
        }
        if valid({name: factors[name][i] for name, i in found.items()}):
            count = sum(pair in missing for pair in itertools.combinations(found.items(), 2))
            seen += 1
            if count > most:
                best, most = found, count
            if seen == _VALID_TRIES:
                break
    return best


def crossed(axes: int, transposed: bool) -> Iterator[dict[str, Any]]:
    """All values of all factors, but the raw tensors and their order in turn."""
    free = {k: v for k, v in FACTORS.items() if k not in ("axes", "transposed", "raw")}
    raws = itertools.cycle(FACTORS["raw"])
    for choice in itertools.product(*free.values()):
        values = {"axes": axes, "transposed": transposed, **dict(zip(free, choice, strict=True))}
        if complete(values | {"raw": None}):
            yield values | {"raw": next(raws)}


def name_of(values: dict[str, Any]) -> str:
    """A short name for a test."""
    case = case_of(values)
    parts = [f"{'T' if case.transposed else ''}{case.axes}d", f"{case.c_in}-{case.c_out}"]
    parts += [
        f"{letter}{''.join(map(str, n))}"
        for letter, n in zip("ksd", (case.kernel, case.stride, case.dilation), strict=True)
    ]
    parts += [f"g{case.groups}", case.mode, values["padding"], "x".join(map(str, case.size))]
    parts += [f"o{''.join(map(str, case.output_padding))}"] * any(case.output_padding)
    return " ".join((*parts, values["raw"]))
