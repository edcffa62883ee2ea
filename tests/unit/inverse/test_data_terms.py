"""Measurements against their dense matrix: adjoint, proximal step, norm."""

from functools import partial
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

from oracles import dense_operator
from taut.inverse import Blur, Downsampling, Inpainting, LeastSquares
from taut.inverse._conjugate_gradients import conjugate_gradients
from taut.program import UnprovenError


def made(name, shape=(2, 4, 6), dtype=torch.float64):
    torch.manual_seed(0)
    kernels = {"blur": (3, 3), "blur of even size": (2, 4), "blur of one row": (1, 5)}
    if name in kernels:
        return Blur(torch.randn(kernels[name], dtype=dtype))
    if name == "mask":
        return Inpainting(torch.rand(shape[1:]) > 0.4)
    if name == "weights":
        return Inpainting(torch.rand(shape, dtype=dtype))
    if name == "blocks":
        return Downsampling(2)
    conv = nn.Conv2d(2, 3, 3, bias=False, dtype=dtype, stride=2)
    return nn.Sequential(conv, nn.Flatten())


ANY: tuple[Any, ...] = (LeastSquares, Inpainting)  # to call with what their types refuse
NAMES = ("blur", "blur of even size", "blur of one row", "mask", "weights", "blocks", "module")


@pytest.fixture(params=NAMES)
def problem(request):
    shape = (2, 4, 6)
    physics = made(request.param)
    x = torch.randn(3, *shape, dtype=torch.float64)
    y = physics(torch.randn_like(x))
    matrix = dense_operator(physics, shape)
    return LeastSquares(physics, y), matrix, x


def test_gradients(problem):
    data, matrix, x = problem
    y = data.y.flatten(1)
    expected = (x.flatten(1) @ matrix.T - y) @ matrix
    torch.testing.assert_close(data.gradient(x).flatten(1), expected)
    torch.testing.assert_close(data.adjoint(data.y, x).flatten(1), y @ matrix)


@pytest.mark.parametrize("step", [0.01, 1.0, 70.0])
def test_proximal_steps_solve_their_equation(problem, step):
    data, matrix, x = problem
    system = torch.eye(x[0].numel(), dtype=x.dtype) + step * matrix.T @ matrix
    right = x.flatten(1) + step * data.y.flatten(1) @ matrix
    expected = torch.linalg.solve(system, right.T).T
    torch.testing.assert_close(data.prox(x, step).flatten(1), expected, rtol=1e-9, atol=1e-9)


def test_constants_are_proved_and_tight(problem):
    data, matrix, _ = problem
    exact = float(torch.linalg.matrix_norm(matrix, 2)) ** 2
    assert exact * (1 - 1e-12) <= data.lipschitz((2, 4, 6)) <= exact * 1.05


def test_blurs_in_single_precision_and_of_odd_sizes():
    blur = Blur(torch.rand(3, 2))
    x, y = torch.rand(2, 1, 5, 7), torch.rand(2, 1, 5, 7)
    inner = (blur.A(x) * y).sum(), (x * blur.A_adjoint(y)).sum()
    torch.testing.assert_close(*inner)
    z = blur.prox_l2(x, y, 2.0)
    torch.testing.assert_close(z + 2 * blur.A_adjoint(blur.A(z) - y), x, rtol=1e-4, atol=1e-5)


class Spectral:
    """A physics as deepinv has them, whose steps have no rule here."""

    def A(self, x):
        return torch.fft.irfft2(self._response(x) * torch.fft.rfft2(x), s=x.shape[-2:])

    def A_adjoint(self, y):
        return torch.fft.irfft2(self._response(y) * torch.fft.rfft2(y), s=y.shape[-2:])

    def prox_l2(self, z, y, gamma):
        response = self._response(z)
        right = torch.fft.rfft2(z + gamma * self.A_adjoint(y))
        return torch.fft.irfft2(right / (1 + gamma * response.square()), s=z.shape[-2:])

    def _response(self, x):
        h, w = x.shape[-2:]
        return torch.linspace(2, 0.5, h * (w // 2 + 1), dtype=x.dtype).reshape(h, -1).round()


def test_a_physics_without_a_rule_is_bounded_by_its_matrix():
    for dtype in (torch.float32, torch.float64):
        y = torch.rand(1, 1, 6, 6, dtype=dtype)
        assert LeastSquares(Spectral(), y).lipschitz((1, 6, 6)) == pytest.approx(4, rel=1e-2)
    large = LeastSquares(Spectral(), torch.rand(1, 1, 80, 80))
    with pytest.raises(UnprovenError, match="no proof on images of 6400 numbers; pass a `norm`"):
        large.lipschitz((1, 80, 80))
    assert LeastSquares(Spectral(), large.y, norm=2.5).lipschitz((1, 80, 80)) >= 6.25


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.ReLU(), "`physics` must be linear; its `.*` .ReLU. is not"),
        (nn.Conv2d(1, 1, 1), "`physics` must be linear; it does not map 0 to 0"),
    ],
)
def test_what_is_not_linear_is_refused(module, words):
    data = LeastSquares(module, torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=words):
        data.lipschitz((1, 4, 4))
    with pytest.raises(ValueError, match=words):
        data.check((1, 4, 4))


class _Rows:
    """Every second row, with an adjoint that is wrong by a factor."""

    def __init__(self, factor: float):
        self.factor = factor

    def A(self, x):
        return x[..., ::2, :]

    def A_adjoint(self, y):
        return self.factor * torch.stack((y, torch.zeros_like(y)), -2).flatten(-3, -2)


class _Detached(nn.Module):
    def forward(self, x):
        return 2 * x.detach()


@pytest.mark.parametrize("physics", [_Rows(3.0), _Detached()])
def test_a_wrong_adjoint_is_refused(physics):
    y = torch.zeros(1, 1, 4 if isinstance(physics, nn.Module) else 2, 4)
    with pytest.raises(ValueError, match=r"`physics` must give its adjoint, .*; got <A x, A x> = "):
        LeastSquares(physics, y).lipschitz((1, 4, 4))
    assert LeastSquares(_Rows(1.0), torch.zeros(1, 1, 2, 4)).lipschitz((1, 4, 4)) >= 1


def test_wrong_arguments(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    y, least_squares, inpainting = torch.zeros(1, 1, 4, 4), ANY[0], ANY[1]
    with pytest.raises(ValueError, match=r"`physics` must be a torch\.nn\.Module, or have `A`"):
        least_squares(torch.relu, y)
    with pytest.raises(ValueError, match=r"`y` must be a torch\.Tensor; got list"):
        least_squares(nn.Identity(), [1.0])
    with pytest.raises(ValueError, match=r"`y` must be a floating-point tensor; got torch\.int64"):
        least_squares(nn.Identity(), y.long())
    with pytest.raises(ValueError, match="`y` must be a floating-point tensor; got"):
        least_squares(nn.Identity(), y + 1j)  # the imaginary part would not count in the norm
    with pytest.raises(ValueError, match="`y` must be finite"):
        least_squares(nn.Identity(), y / 0)
    with pytest.raises(ValueError, match="`y` must be measurements of shape"):
        LeastSquares(nn.Identity(), y).check((1, 4, 3))
    for norm in (-1, float("inf"), "a"):
        with pytest.raises(ValueError, match="`norm` must be a number of at least 0, or None"):
            least_squares(nn.Identity(), y, norm)
    with pytest.raises(ValueError, match="`filter` must be a float tensor of shape"):
        Blur(torch.ones(3))
    with pytest.raises(ValueError, match=r"`mask` must be a torch\.Tensor"):
        inpainting([1])
    with pytest.raises(ValueError, match="`factor` must divide the sizes of the image; got 3"):
        Downsampling(3)(y)
    with pytest.raises(ValueError, match="`factor` must be a positive integer; got 0"):
        Downsampling(0)


def test_conjugate_gradients_for_samples_of_different_difficulty():
    torch.manual_seed(0)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        roots = torch.randn(3, 6, 6, dtype=dtype)
        roots[0] = 0  # done after one step
        matrices = torch.eye(6, dtype=dtype) + roots.mT @ roots
        right = torch.randn(3, 6, dtype=dtype)
        right[2] = 0
        apply = partial(torch.einsum, "bij,bj->bi", matrices)
        found = conjugate_gradients(apply, right, start=torch.zeros_like(right))
        expected = torch.linalg.solve(matrices, right)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_half_precision_and_another_default_device_keep_the_check_of_adjoints():
    data = LeastSquares(nn.Identity(), torch.rand(1, 3, 300, 300).half())
    data.check((3, 300, 300))
    with torch.device("meta"):
        data.check((3, 300, 300))
