"""Ways to an orthonormal basis side by side: seconds, and how orthonormal the result is.

Example: python -m experiments.orthonormalisation --record records/orthonormalisation.json

Every way multiplies through the same products, so that the number of operations decides, not the
library that carries them out. The second part sets ways of a dense layer beside the plain one:
forwards and backwards on a batch of 128.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product as pairs
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import QUICK, Experiment, option, tracked
from experiments._show import markdown, number
from experiments.speed._timing import alternate, median_ratio
from taut.linalg import factors
from taut.linalg.bases import basis_product, orthonormal_basis
from taut.linalg.products import matmul, product

SHAPES = ((256, 128), (512, 256), (1024, 512), (1024, 1024), (4096, 512))
CONDITIONS = (1.5, 10.0, 1000.0)
# Amsel et al. (2025), arXiv:2505.16932, table of the degree 5 polynomials for singular values
# above 1e-3.
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def work(args: argparse.Namespace, record: Record) -> None:
    torch.manual_seed(0)
    shapes = ((96, 64), (64, 64)) if args.quick else SHAPES
    record.begin(taut=taut.__version__)
    for shape, condition in tracked(list(pairs(shapes, CONDITIONS)), "matrices"):
        for row in bases(shape, condition, args.repeats):
            record.add("bases", row)
    for shape in tracked(shapes[-2:], "layers"):
        for row in dense(shape, args.repeats):
            record.add("dense", row)


def scaled(a: Tensor) -> Tensor:
    """By a bound of its norm that costs nothing."""
    return a / (a.abs().sum(0).max() * a.abs().sum(1).max()).sqrt()


def bjorck(a: Tensor) -> Tensor:
    """20 steps, as in the founding paper."""
    a = scaled(a)
    for _ in range(20):
        a = 1.5 * a - 0.5 * product(a, product(a.mT, a))
    return a


def polar_express(a: Tensor) -> Tensor:
    """Minimax Newton-Schulz steps of degree 5, and one Bjorck step that removes their rounding."""
    a = scaled(a)
    for c1, c3, c5 in _POLAR_EXPRESS:
        square = product(a.mT, a)
        a = c1 * a + product(a, c3 * square + c5 * product(square, square))
    return 1.5 * a - 0.5 * product(a, product(a.mT, a))


def double_cholesky_qr(a: Tensor) -> Tensor:
    qr = factors._double_cholesky_qr(a.double())
    assert qr is not None, "not accurate enough for this matrix"
    return qr.basis().float()


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "taut": orthonormal_basis,
    "Cholesky QR, float64": double_cholesky_qr,
    "Householder QR, float32": lambda a: torch.linalg.qr(a).Q,
    "20 Bjorck steps": bjorck,
    "8 minimax Newton-Schulz steps": polar_express,
}


def matrix(shape: tuple[int, int], condition: float) -> Tensor:
    """Random singular vectors; singular values at equal distances, the largest 1."""
    left = torch.linalg.qr(torch.randn(*shape, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(shape[1], shape[1], dtype=torch.float64)).Q
    return (left * torch.linspace(1, 1 / condition, shape[1], dtype=torch.float64) @ right).float()


def bases(shape: tuple[int, int], condition: float, repeats: int) -> list[dict]:
    a = matrix(shape, condition)
    runs = {name: partial(way, a) for name, way in WAYS.items()}
    times, failed = alternate(runs, a.device, repeats=repeats)
    rows = []
    for name, way in WAYS.items():
        row = {"shape": shape, "condition": condition, "way": name}
        if name in failed:
            rows.append(row | {"failed": failed[name]})
            continue
        values = torch.linalg.svdvals(way(a).double())
        row |= {"seconds": median(times[name]), "error": float((values - 1).abs().max())}
        rows.append(row | {"above": float(values.max() - 1)})
    return rows


def compact_wy(x: Tensor, vectors: Tensor) -> Tensor:
    """The first features of x reflected by blocks of 64 Householder reflections."""
    for block in vectors.split(64, 1):
        square = matmul(block.mT, block)
        upper = square.triu(1) + 0.5 * torch.diag(square.diagonal())
        inside = torch.linalg.solve_triangular(upper, matmul(x, block), upper=True, left=False)
        x = x - matmul(inside, block.mT)
    return x[:, : vectors.shape[1]]


DENSE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda x, a: F.linear(x, a.mT),
    "taut": basis_product,
    "taut, basis formed": lambda x, a: matmul(x, orthonormal_basis(a)),
    "compact WY, blocks of 64": compact_wy,
}


def dense(shape: tuple[int, int], repeats: int) -> list[dict]:
    x, grad = torch.randn(128, shape[0], requires_grad=True), torch.randn(128, shape[1])
    a = matrix(shape, 1.5).requires_grad_()

    def gradients(way: Callable[[Tensor, Tensor], Tensor]) -> object:
        return torch.autograd.grad(way(x, a), (x, a), grad)

    runs = {name: partial(gradients, way) for name, way in DENSE.items()}
    times, failed = alternate(runs, x.device, repeats=repeats)
    assert not failed, failed
    rows = []
    for name, taken in times.items():
        ratio = median_ratio(taken, times["plain"])
        rows.append({"shape": shape, "way": name, "seconds": median(taken), "ratio": ratio})
    return rows


def ways_table() -> str:
    rows = []
    for x in read(RECORDS / "orthonormalisation.json").get("bases", ()):
        error = x["failed"] if "failed" in x else f"{x['error']:.1e}"
        numbers = f"{x['condition']:g}", x["way"], number(x.get("seconds"), 1e3), error
        rows.append(("x".join(map(str, x["shape"])), *numbers))
    return markdown(("matrix", "condition", "way", "ms", "farthest from 1"), rows)


def dense_table() -> str:
    rows = (
        ("x".join(map(str, x["shape"])), x["way"], number(x["seconds"], 1e3), number(x["ratio"]))
        for x in read(RECORDS / "orthonormalisation.json").get("dense", ())
    )
    return markdown(("layer", "way", "ms", "over plain"), rows)


EXPERIMENT = Experiment(
    "orthonormalisation",
    __doc__,
    work,
    (option("--repeats", 9, "rounds in which the ways take turns"), QUICK),
)

if __name__ == "__main__":
    EXPERIMENT.main()
