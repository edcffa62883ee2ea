"""Orthogonal kernels for tests: random ones, exact ones, and what they are to be compared with."""

import itertools
from fractions import Fraction

import torch
from torch import nn

import taut
from oracles import dense_operator
from taut.theory import Factorisation


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random_orthogonal(c, seed):
    gaussian = torch.randn(c, c, generator=generator(seed), dtype=torch.float64)
    basis, upper = torch.linalg.qr(gaussian)
    return basis * upper.diagonal().sign()  # of both determinants


def random_factors(c, size, seed, ranks=None):
    steps = sum(k - 1 for k in size)
    frames = [random_orthogonal(c, 100 * seed + i) for i in range(1, steps + 1)]
    stack = torch.stack(frames) if frames else torch.zeros(0, c, c, dtype=torch.float64)
    drawn = torch.randint(0, c + 1, (steps,), generator=generator(seed)).tolist()
    return Factorisation(random_orthogonal(c, 100 * seed), stack, tuple(ranks or drawn), size)


def bcop(c, size, seed, dtype=torch.float64):
    torch.manual_seed(seed)
    return taut.BCOP(c, c, size, init="uniform", dtype=dtype)


def sigma(kernel, points=5):
    """Singular values of the dense circular operator."""
    axes = kernel.ndim - 2
    if not axes:
        return torch.linalg.svdvals(kernel)
    convolution = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[axes - 1]
    pads = [p for k in reversed(kernel.shape[2:]) for p in (k - 1, 0)]

    def f(x):
        return convolution(nn.functional.pad(x, pads, mode="circular"), kernel)

    size = max(points, *kernel.shape[2:])
    return torch.linalg.svdvals(dense_operator(f, (kernel.shape[1], *(size,) * axes)))


def assert_orthogonal(kernel):
    values = sigma(kernel)
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-12)


def distance(a, b):
    return (a - b).abs().max().item()


# Polynomials in several variables are dictionaries from exponents to coefficients.


def times(p, q):
    product = {}
    for (e, a), (f, b) in itertools.product(p.items(), q.items()):
        key = tuple(x + y for x, y in zip(e, f, strict=True))
        product[key] = product.get(key, 0) + a * b
    return {e: a for e, a in product.items() if a}


def plus(p, q, factor=1):
    total = {e: p.get(e, 0) + factor * q.get(e, 0) for e in {*p, *q}}
    return {e: a for e, a in total.items() if a}


def matrix_product(a, b):
    n = len(a)
    rows = [[{} for _ in range(n)] for _ in range(n)]
    for i, j, k in itertools.product(range(n), repeat=3):
        rows[i][j] = plus(rows[i][j], times(a[i][k], b[k][j]))
    return rows


def determinant(a, zero):
    """By expansion along the first row."""
    if not a:
        return {zero: Fraction(1)}
    total = {}
    for j, entry in enumerate(a[0]):
        minor = [row[:j] + row[j + 1 :] for row in a[1:]]
        total = plus(total, times(entry, determinant(minor, zero)), (-1) ** j)
    return total


def reflector(integers, zero):
    """I - 2 v v^T / v^T v, exactly."""
    norm = sum(v * v for v in integers)
    return [
        [{zero: Fraction(int(i == j)) - Fraction(2 * u * v, norm)} for j, v in enumerate(integers)]
        for i, u in enumerate(integers)
    ]


def exact_symbol(c, size, seed):
    """A product of rational orthogonal steps, each with a projector of rank 0, 1, c - 1 or c."""
    draw, zero = generator(seed), (0,) * len(size)

    def integers():
        values = torch.randint(-3, 4, (c,), generator=draw).tolist()
        return values if any(values) else [1] * c

    symbol = reflector(integers(), zero)
    for axis, k in enumerate(size):
        z = tuple(int(a == axis) for a in range(len(size)))
        for _ in range(k - 1):
            v, kind = integers(), int(torch.randint(0, 4, (1,), generator=draw))
            norm, identity = sum(x * x for x in v), kind in (2, 3)
            step = [[{} for _ in v] for _ in v]
            for i, j in itertools.product(range(c), repeat=2):
                line = Fraction(v[i] * v[j], norm) if kind in (0, 2) else Fraction(0)
                inside = Fraction(int(i == j and identity)) + (line if kind == 0 else -line)
                step[i][j] = {zero: inside, z: Fraction(int(i == j)) - inside}
            symbol = matrix_product(symbol, step)
    return symbol


def exact_kernel(symbol, size):
    kernel = torch.zeros(len(symbol), len(symbol), *size, dtype=torch.float64)
    for i, j in itertools.product(range(len(symbol)), repeat=2):
        for place, value in symbol[i][j].items():
            kernel[(i, j, *place)] = float(value)
    return kernel
