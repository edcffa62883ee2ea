"""Convolutions with the other methods: norms, values and bounds, for all that each accepts."""

import math
import re

import pytest
import torch

import taut
from convolution_cases import FACTORS, allowed, case_of, fits, normal, orthogonal, pairwise
from convolution_layers import layer_of, matrix_of, set_raw_
from convolution_oracles import Case, keeps_isometry, promise
from oracles import dense_operator
from taut.parametrizations import AbstractSpectral, methods

# Kernels of the size of the input have no `weight`: see tests/unit/nn/test_spectral_conv.py.
METHODS = [
    cls
    for cls in methods().values()
    if not (cls.matrices_only or cls is taut.BCOP or issubclass(cls, AbstractSpectral))
]


def legal(values: dict) -> bool:
    case = case_of(values)
    return normal(values) and allowed(case) and fits(case)


ROWS = pairwise(FACTORS, legal)


def accepted(method, case: Case):
    """The layer, or None where the method refuses its arguments in a sentence."""
    try:
        return layer_of(case, method, dtype=torch.float64)
    except ValueError as error:
        sentence = str(error)
    assert re.fullmatch(r"`\w+`.*\.", sentence)  # the argument first, in one line
    return None


def divides(case: Case) -> bool:
    """Whether the stride divides the kernel, also for the dilated kernel as it is made."""
    axes = zip(case.kernel, case.stride, case.dilation, strict=False)
    return case.groups == 1 and all(
        k % s == 0 and k % (s // math.gcd(s, d)) == 0 for k, s, d in axes
    )


@pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls.__name__)
def test_norms_and_values_of_every_layer_that_a_method_accepts(method):
    taken = 0
    for values in ROWS:
        case = case_of(values)
        layer = accepted(method, case)
        if layer is None:
            continue
        taken += 1
        set_raw_(layer.parametrization, values["raw"])
        matrix = matrix_of(case, layer.weight)
        scale = max(1.0, float(matrix.abs().max()))
        dense = dense_operator(layer, (case.c_in, *case.size))
        torch.testing.assert_close(dense / scale, matrix / scale, rtol=0, atol=1e-11)
        if method.guarantee != "none":
            assert torch.linalg.matrix_norm(matrix, 2) <= 1 + 1e-9, (case, values["raw"])
    assert taken >= (len(ROWS) if method is taut.AOL else 1)


@pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls.__name__)
def test_strides_that_divide_the_kernel_are_accepted_with_any_dilation(method):
    rows = [case_of(values) for values in ROWS]
    plain = [c for c in rows if divides(c) and (method is not taut.BCOPFixed or orthogonal(c))]
    assert len(plain) > 5
    for case in plain:
        assert accepted(method, case) is not None, case


@pytest.mark.parametrize("rows", [0, 1])
def test_fixed_kernels_exist_where_trained_ones_do(rows):
    for values in ROWS[rows::2]:
        case = case_of(values)
        layer = accepted(taut.BCOPFixed, case)
        assert (layer is None) == (accepted(taut.BCOP, case) is None), case
        if orthogonal(case):
            assert layer is not None, case
            assert layer.isometry == promise(case)
            s = torch.linalg.svdvals(matrix_of(case, layer.weight))
            assert not keeps_isometry(case) or s.min() >= 1 - 1e-9


@pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls.__name__)
def test_bounds_are_above_the_norm(method):
    for values in ROWS[::8]:
        case = case_of(values)
        layer = accepted(method, case)
        if layer is None:
            continue
        bound = float(taut.lipschitz_bound(layer, (case.c_in, *case.size)))
        norm = torch.linalg.matrix_norm(matrix_of(case, layer.weight), 2).item()
        assert bound >= norm - 1e-12
        assert method.guarantee == "none" or bound <= 1 + 1e-6
