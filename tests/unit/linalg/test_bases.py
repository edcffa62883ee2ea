"""Orthonormal bases: exact for every finite input, with the gradient of the QR factor."""

import math

import pytest
import torch
from torch import Tensor

from taut.linalg import factors
from taut.linalg.bases import basis_product, orthonormal_basis
from taut.linalg.precision import rounds_products
from taut.linalg.products import product

SHAPES = [(1, 1), (5, 5), (7, 3), (3, 8, 4), (2, 2, 6, 1)]
KINDS = ["gaussian", "ill-conditioned", "rank-deficient", "zero", "huge", "tiny", "subnormal"]


def raw_tensor(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    a = torch.randn(*shape, dtype=torch.float64)
    info = torch.finfo(dtype)
    if kind == "ill-conditioned":
        a = a * torch.logspace(0, -12, shape[-1], dtype=torch.float64)
    elif kind == "rank-deficient":
        a[..., shape[-1] // 2] = a.sum(-1)
        a[..., 0] = 0
    elif kind != "gaussian":
        a = (
            a
            * {"zero": 0, "huge": info.max / 10, "tiny": info.tiny, "subnormal": info.tiny / 50}[
                kind
            ]
        )
    return a.to(dtype)


def defect(q: Tensor) -> float:
    s = torch.linalg.svdvals(q.double())
    return float((s - 1).abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 5e-7), (torch.float16, 2e-3)]
)
def test_columns_are_orthonormal_for_every_finite_input(kind, shape, dtype, tolerance):
    q = orthonormal_basis(raw_tensor(kind, shape, dtype))
    assert q.dtype == dtype
    assert q.shape == shape
    assert defect(q) < tolerance


@pytest.mark.parametrize("shape", [(300, 200), (2, 512, 256), (3136, 64)])
@pytest.mark.parametrize("kind", KINDS)
def test_large_float32_matrices_are_as_exact(kind, shape):
    assert defect(orthonormal_basis(raw_tensor(kind, shape, torch.float32))) < 1e-6


def test_every_route_gives_the_basis_of_qr():
    a = torch.randn(300, 200)
    q, r = torch.linalg.qr(a.double())
    expected = q * r.diagonal().sign()
    for route in (
        factors._single_cholesky_qr,
        factors._double_cholesky_qr,
        factors._householder_qr,
    ):
        given = a if route is factors._single_cholesky_qr else a.double()
        found = route(given)
        assert found is not None
        assert (found.basis() - expected).abs().max() < 1e-5
        # That is the transposed inverse of S in a = Q S.
        assert (expected @ torch.linalg.inv(found.inverse.double()).mT - a).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(300, 200), (512, 512), (600, 300)])
@pytest.mark.parametrize("condition", [1, 2.9, 3.5, 10, 100, 1e5])
def test_large_bases_are_exact_for_every_condition(shape, condition):
    a = torch.linalg.qr(torch.randn(shape, dtype=torch.float64))[0]
    a = a * torch.logspace(0, math.log10(condition), shape[1], dtype=torch.float64)
    mixed = (a @ torch.linalg.qr(torch.randn(shape[1], shape[1], dtype=torch.float64))[0]).float()
    assert defect(orthonormal_basis(mixed)) < 1e-6


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (4, 1), (300, 200), (2100, 130), (520, 512)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_basis_product_is_the_product_with_the_basis(transposed, shape, dtype, tolerance):
    a = torch.randn(shape, dtype=torch.float64)
    x = torch.randn(2, 4, shape[1] if transposed else shape[0], dtype=torch.float64)
    basis = orthonormal_basis(a)
    expected = x @ (basis.mT if transposed else basis)
    grad = torch.randn_like(expected)

    def factored(x, a):
        return basis_product(x, a, transposed=transposed)

    def plain(x, a):
        basis = orthonormal_basis(a)
        return x @ (basis.mT if transposed else basis)

    y, grads = torch.autograd.functional.vjp(factored, (x.to(dtype), a.to(dtype)), grad.to(dtype))
    expected_grads = torch.autograd.functional.vjp(plain, (x, a), grad)[1]
    for found, wanted in zip((y, *grads), (expected, *expected_grads), strict=True):
        assert found.dtype == dtype
        assert (found - wanted).abs().max() < tolerance * wanted.abs().max()


def with_spectrum(rows: int, values: Tensor) -> Tensor:
    """A float32 matrix with these singular values on random directions."""
    left, right = (
        torch.linalg.qr(torch.randn(n, len(values), dtype=torch.float64)).Q
        for n in (rows, len(values))
    )
    return (left * values.double() @ right.mT).float()


SPECTRA = {
    "one large": lambda n: torch.ones(n).index_fill(0, torch.tensor(0), 4.9),
    "some large": lambda n: torch.where(torch.arange(n) < 10, 4.9, 1.0),
    "half large": lambda n: torch.where(torch.arange(n) < n // 2, 2.9, 1.0),
    "half far larger": lambda n: torch.where(torch.arange(n) < n // 2, 4.0, 1.0),
    "one small": lambda n: torch.ones(n).index_fill(0, torch.tensor(0), 0.21),
    "even": lambda n: torch.logspace(0, math.log10(4.9), n),
    "steep": lambda n: torch.logspace(0, 1.5, n),
    "one far larger": lambda n: torch.ones(n).index_fill(0, torch.tensor(0), 30.0),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(300, 200), (512, 512), (2100, 130)])
@pytest.mark.parametrize("size", [1e-6, 1, 1e6])
def test_products_with_a_basis_preserve_norms_for_every_condition(spectrum, shape, size):
    a = with_spectrum(shape[0], SPECTRA[spectrum](shape[1])) * size
    matrix = basis_product(torch.eye(shape[1]), a, transposed=True)
    s = torch.linalg.svdvals(matrix.double())
    assert s.max() < 1 + 3e-6
    assert s.min() > 1 - 1e-5
    q = orthonormal_basis(a.double())
    assert (matrix.mT - q).abs().max() < 1e-4


@pytest.mark.parametrize(("condition", "share"), [(2.05, 0.78), (2.45, 0.78), (4.98, 0.94)])
def test_wide_bases_of_matrices_whose_roundings_agree(condition, share):
    """Spectra of two values, turned by a Hadamard matrix: sums of equal terms at every place."""
    n, turned = 1024, torch.ones(1, 1, dtype=torch.float64)
    while len(turned) < n:
        turned = torch.cat((torch.cat((turned, turned), 1), torch.cat((turned, -turned), 1)))
    values = torch.where(torch.arange(n) < share * n, 1 / condition, 1.0)
    a = (torch.linalg.qr(torch.randn(n, n))[0].double() * values @ turned / n**0.5).float()
    for basis in (orthonormal_basis(a), basis_product(torch.eye(n), a)):
        defect = torch.linalg.eigvalsh(basis.mT.double() @ basis.double() - torch.eye(n))
        assert defect.max() / 2 < 3e-6
        assert defect.min() / 2 > -1e-5


@pytest.mark.parametrize("transposed", [False, True])
def test_several_gradients_at_once(transposed):
    raw, x = torch.linalg.qr(torch.randn(1100, 40)).Q, torch.randn(30, 40 if transposed else 1100)
    a = raw.requires_grad_()
    y = basis_product(x, a, transposed=transposed)
    grads = torch.randn(2, *y.shape)
    found = torch.autograd.grad(y, a, grads, is_grads_batched=True, retain_graph=True)[0]
    for one, grad in zip(found, grads, strict=True):
        expected = torch.autograd.grad(y, a, grad, retain_graph=True)[0]
        assert (one - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_the_gradients_that_are_needed_are_computed(transposed, wanted):
    a = torch.linalg.qr(torch.randn(300, 200)).Q.requires_grad_(wanted[1])
    x = torch.randn(40, 200 if transposed else 300).requires_grad_(wanted[0])
    found = torch.autograd.grad(basis_product(x, a, transposed=transposed).pow(3).sum(), [
        t for t in (x, a) if t.requires_grad
    ])  # fmt: skip
    both = [t.detach().double().requires_grad_() for t in (x, a)]
    expected = torch.autograd.grad(basis_product(*both, transposed=transposed).pow(3).sum(), both)
    wanted_grad = expected[0] if wanted[0] else expected[1]
    assert (found[0] - wanted_grad).abs().max() < 1e-4 * wanted_grad.abs().max()


@pytest.mark.parametrize("transposed", [False, True])
def test_basis_product_is_twice_differentiable_in_its_vectors(transposed):
    a = torch.randn(5, 3, dtype=torch.float64)
    x = torch.randn(2, 3 if transposed else 5, dtype=torch.float64, requires_grad=True)

    def f(x):
        return basis_product(x, a, transposed=transposed).pow(3)

    assert torch.autograd.gradgradcheck(f, (x,))
    jacobian = torch.func.vmap(torch.func.jacrev(f))(x.detach())
    assert jacobian.shape == (2, 5 if transposed else 3, x.shape[1])


def test_second_derivatives_by_raw_tensors_are_those_of_torch():
    a = torch.randn(5, 3, dtype=torch.float64)
    x = torch.randn(2, 5, dtype=torch.float64)

    def plain(a):
        q, r = torch.linalg.qr(a)
        return x @ (q * r.diagonal().sign())

    hessians = [
        torch.autograd.functional.hessian(lambda a, f=f: f(a).pow(3).sum(), a)
        for f in (plain, lambda a: basis_product(x, a), lambda a: x @ orthonormal_basis(a))
    ]
    for found in hessians[1:]:
        assert torch.allclose(found, hessians[0], atol=1e-9)


def test_mixed_second_derivatives_are_whole():
    """A penalty on the gradient by x, differentiated by the raw tensor: as by the plain way."""
    a = torch.randn(5, 3, dtype=torch.float64)
    x = torch.randn(2, 5, dtype=torch.float64)

    def penalty(f):
        raw, inputs = a.clone().requires_grad_(), x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(f(inputs, raw).pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), raw)[0]

    def plain(x, a):
        q, r = torch.linalg.qr(a)
        return x @ (q * r.diagonal().sign())

    assert torch.allclose(penalty(basis_product), penalty(plain))


def test_span_is_that_of_the_columns():
    a = torch.randn(6, 3, dtype=torch.float64)
    q = orthonormal_basis(a)
    projector = a @ torch.linalg.pinv(a)
    assert torch.allclose(q @ q.T, projector, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_that_of_finite_differences(shape):
    a = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(orthonormal_basis, (a,))


@pytest.mark.parametrize("shape", [(300, 200), (40, 20)])
def test_float32_gradient_is_the_float64_one(shape):
    a, grad = torch.randn(*shape), torch.randn(*shape)
    expected = torch.autograd.functional.vjp(orthonormal_basis, a.double(), grad.double())[1]
    found = torch.autograd.functional.vjp(orthonormal_basis, a, grad)[1]
    assert torch.allclose(found.double(), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_for_every_finite_input(kind, dtype):
    a = raw_tensor(kind, (8, 4), dtype).requires_grad_()
    orthonormal_basis(a).square().mul(torch.arange(4)).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(4, 2), (300, 200)])
def test_not_finite_is_refused(value, shape):
    a = torch.randn(shape)
    a[0, 0] = value
    with pytest.raises(ValueError, match="finite"):
        orthonormal_basis(a)


def test_wide_is_refused():
    with pytest.raises(ValueError, match="2 rows, 3 columns"):
        orthonormal_basis(torch.zeros(2, 3))


def test_no_columns_and_no_matrices():
    assert orthonormal_basis(torch.zeros(3, 0)).shape == (3, 0)
    assert orthonormal_basis(torch.zeros(0, 3, 2)).shape == (0, 3, 2)


@pytest.mark.parametrize("layout", ["plain", "transposed", "expanded", "sliced"])
def test_product_of_any_layout(layout):
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    if layout == "transposed":
        a, b = a.T, b.T
    elif layout == "expanded":
        a = a[:1].expand(256, 256)
    elif layout == "sliced":
        a, b = torch.randn(512, 512)[::2, ::2], torch.randn(512, 512)[::2, ::2]
    assert torch.allclose(product(a, b).double(), a.double() @ b.double(), atol=1e-3)
    stacked = product(torch.stack((a, b)), torch.stack((b, a)))
    assert torch.allclose(stacked[1].double(), b.double() @ a.double(), atol=1e-3)


@pytest.mark.parametrize("transposed", [False, True])
def test_gradient_penalties_through_large_products_are_whole(transposed):
    """Products through oneDNN have no derivative of their own."""
    a, x = torch.randn(512, 256), torch.randn(64, 256 if transposed else 512)

    def penalty(raw, inputs):
        y = basis_product(inputs, raw, transposed=transposed)
        (grad,) = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), raw)[0]

    found = penalty(a.requires_grad_(), x.requires_grad_())
    doubled = (t.detach().double().requires_grad_() for t in (a, x))
    expected = penalty(*doubled)
    assert (found.double() - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("size", [-13, -9.1, -8.7, 7.98, 8.075, 8.3, 13])
@pytest.mark.parametrize("columns", [256, 512])
def test_gaussian_bases_of_any_size_are_exact(columns, size):
    a = torch.randn(512, columns) * 10**size
    assert defect(orthonormal_basis(a)) < 1e-6
    x = torch.randn(8, 512)
    q = orthonormal_basis(a.double())
    assert torch.allclose(basis_product(x, a).double(), x.double() @ q, atol=1e-4)


def test_condition_is_seen_where_the_start_of_its_iteration_is_blind():
    """Half of the singular values are small, on directions orthogonal to the fixed start."""
    start = torch.arange(1.0, 257).square().mul(0.7).cos().double()
    right = torch.linalg.qr(torch.cat((start[:, None], torch.randn(256, 255).double()), 1)).Q
    values = torch.cat((torch.ones(128), torch.full((128,), 0.1))).double()
    left = torch.linalg.qr(torch.randn(512, 256, dtype=torch.float64)).Q
    assert defect(orthonormal_basis((left * values @ right.T).float())) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [torch.ones(23).diag(1), torch.randn(24, 24).triu(1)])
def test_gradient_of_nilpotent_matrices_is_finite(raw, dtype):
    a = raw.clone().to(dtype).detach().requires_grad_()
    orthonormal_basis(a).square().mul(torch.arange(24)).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_stacks_of_stacks_of_large_matrices():
    a = torch.randn(2, 2, 128, 128)
    assert torch.allclose(orthonormal_basis(a)[1, 0], orthonormal_basis(a[1, 0]), atol=1e-6)


def test_default_dtype_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    tall = torch.randn(512, 256, generator=generator)
    near = torch.linalg.qr(tall).Q.contiguous() * 1.1 + 1e-3
    degenerate = tall.clone()
    degenerate[:, 0] = degenerate[:, 1]
    for a in (tall, near, degenerate):
        before = orthonormal_basis(a), basis_product(tall.mT, a)
        torch.set_default_dtype(torch.float64)
        try:
            after = orthonormal_basis(a), basis_product(tall.mT, a)
        finally:
            torch.set_default_dtype(torch.float32)
        for x, y in zip(before, after, strict=True):
            assert torch.equal(x, y)


def test_precision_of_gpus_is_read_whichever_way_it_was_set():
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        assert not rounds_products(torch.device("cuda"))
        return
    before = matmul.fp32_precision
    try:
        for name, rounds in (("tf32", True), ("ieee", False)):
            matmul.fp32_precision = name
            assert rounds_products(torch.device("cuda")) == rounds
        for name, rounds in (("high", True), ("highest", False)):
            torch.set_float32_matmul_precision(name)
            assert rounds_products(torch.device("cuda")) == rounds
    finally:
        matmul.fp32_precision = before
