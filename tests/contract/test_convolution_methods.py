"""Convolutions with the other methods: norms, values and bounds, for all that each accepts."""

import math
import re
from functools import partial

import pytest
import torch

import taut
from convolution_cases import FACTORS, allowed, case_of, fits, normal, orthogonal, pairwise
from convolution_layers import layer_of, matrix_of, set_raw_
from convolution_oracles import Case, keeps_isometry, promise
from oracles import dense_operator
from taut.parametrizations import AbstractSpectral, methods

# Kernels of the size of the input have no `weight`: see tests/unit/nn/test_spectral_conv.py.
KERNELS = {
    name: cls
    for name, cls in methods().items()
    if not (cls.matrices_only or issubclass(cls, AbstractSpectral))
}
KERNELS["AOL with a learned scale"] = partial(taut.AOL, learn_scale=True)
METHODS = [name for name in KERNELS if name != "BCOP"]  # which has tests of its own
LIMITS = {torch.float64: (1e-9, 1e-9), torch.float32: (1e-5, 3e-6)}  # below 1, above 1

ORTHOGONAL = [name for name in METHODS if methods().get(name, taut.AOL).guarantee == "orthogonal"]


def legal(values: dict) -> bool:
    case = case_of(values)
    return normal(values) and allowed(case) and fits(case)


ROWS = pairwise(FACTORS, legal)


def divides(case: Case) -> bool:
    """Whether the stride divides the kernel, also for the dilated kernel as it is made."""
    axes = zip(case.kernel, case.stride, case.dilation, strict=False)
    return case.groups == 1 and all(
        k % s == 0 and k % (s // math.gcd(s, d)) == 0 for k, s, d in axes
    )


def accepted(method: str, case: Case, dtype: torch.dtype = torch.float64):
    """The layer, or None where the method refuses its arguments in a sentence."""
    try:
        return layer_of(case, KERNELS[method], dtype=dtype)
    except ValueError as error:
        sentence = str(error)
    assert re.fullmatch(r"`\w+`.*\.", sentence)  # the argument first, in one line
    return None


def check_norms(case: Case, layer, what: object) -> torch.Tensor:
    """What the method promises of the layer's operator; returns its matrix."""
    matrix, guarantee = matrix_of(case, layer.weight), layer.parametrization.guarantee
    below, above = LIMITS[layer.weight.dtype]
    s = torch.linalg.svdvals(matrix)
    assert guarantee == "none" or s.max() <= 1 + above, (case, what)
    if guarantee == "orthogonal" and keeps_isometry(case):
        assert s.min() >= 1 - below, (case, what)
    return matrix


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_norms_and_values_of_every_layer_that_a_method_accepts(method, dtype):
    taken = 0
    for values in ROWS:
        case = case_of(values)
        layer = accepted(method, case, dtype)
        if layer is None:
            continue
        taken += 1
        set_raw_(layer.parametrization, values["raw"])
        matrix = check_norms(case, layer, values["raw"])
        if dtype == torch.float32:
            continue
        scale = max(1.0, float(matrix.abs().max()))
        dense = dense_operator(layer, (case.c_in, *case.size))
        torch.testing.assert_close(dense / scale, matrix / scale, rtol=0, atol=1e-11)
    assert taken >= (len(ROWS) if method.startswith("AOL") else 1)


def train(layer, steps: int) -> None:
    """Steps of Adam towards random kernels, as a training loop takes them."""
    method, generator = layer.parametrization, torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-2)
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        weight = method.weight()
        goal = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight)
        (weight * goal).sum().backward()
        optimiser.step()
        method.update_(step)


TRAINED = [name for name in KERNELS if name != "BCOPFixed"]
PARTS = [(60, i) for i in range(len(TRAINED))], [(8, i) for i in range(4)]  # every n-th from i


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize(
    ("method", "every", "first"),
    [
        *((method, *part) for method, part in zip(TRAINED, PARTS[0], strict=True)),
        *(
            pytest.param(method, *part, marks=pytest.mark.slow)
            for method in TRAINED
            for part in PARTS[1]
        ),
    ],
)
def test_norms_after_200_steps_of_adam(method, every, first, dtype):
    """From raw tensors as drawn and as hard as they come; those of zeros must move, too."""
    rows = [values for values in ROWS if accepted(method, case_of(values), dtype) is not None]
    for i, values in enumerate(rows[first::every]):
        case = case_of(values)
        layer = accepted(method, case, dtype)
        if i % 2:
            set_raw_(layer.parametrization, values["raw"])
        train(layer, 200)
        assert all(raw.isfinite().all() for raw in layer.parametrization.parameters()), case
        check_norms(case, layer, "trained")


@pytest.mark.parametrize("method", METHODS)
def test_strides_that_divide_the_kernel_are_accepted_with_any_dilation(method):
    rows = [case_of(values) for values in ROWS]
    plain = [c for c in rows if divides(c) and (method not in ORTHOGONAL or orthogonal(c))]
    assert len(plain) > 5
    for case in plain:
        assert accepted(method, case) is not None, case


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("method", ORTHOGONAL)
def test_orthogonal_kernels_exist_where_those_of_bcop_do(method, rows):
    for values in ROWS[rows::2]:
        case = case_of(values)
        layer = accepted(method, case)
        assert (layer is None) == (accepted("BCOP", case) is None), case
        if orthogonal(case):
            assert layer is not None, case
            assert layer.isometry == promise(case)
            check_norms(case, layer, "drawn")


@pytest.mark.parametrize("method", METHODS)
def test_bounds_are_above_the_norm(method):
    for values in ROWS[::8]:
        case = case_of(values)
        layer = accepted(method, case)
        if layer is None:
            continue
        bound = float(taut.lipschitz_bound(layer, (case.c_in, *case.size)))
        norm = torch.linalg.matrix_norm(matrix_of(case, layer.weight), 2).item()
        assert bound >= norm - 1e-12
        assert layer.parametrization.guarantee == "none" or bound <= 1 + 1e-6
