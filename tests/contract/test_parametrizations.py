"""What every parametrization promises, found by iterating over the exported classes."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from oracles import dense_operator
from taut import parametrizations
from taut.linalg.bases import orthonormal_basis
from taut.parametrizations import AbstractParametrization, AbstractSpectral
from thinning import one_in

METHODS = list(parametrizations.methods().values())
KERNEL_METHODS = [cls for cls in METHODS if not cls.matrices_only]
CONFIGURATIONS = [  # in, out, kernel size, stride
    (3, 3, (1, 1), (1, 1)),
    (3, 3, (3, 3), (1, 1)),
    (2, 5, (2, 3), (1, 1)),
    (5, 2, (3, 2), (1, 1)),
    (4, 4, (5, 1), (1, 1)),
    (1, 1, (4, 4), (2, 1)),
    (1, 6, (3, 3), (1, 1)),
    (6, 1, (3, 3), (1, 1)),
    (1, 3, (4, 4), (2, 2)),
    (3, 2, (2, 2), (2, 2)),
    (1, 2, (6, 4), (3, 2)),
    (2, 5, (4, 2), (2, 1)),
    (3, 4, (4,), (1,)),
    (2, 3, (6,), (2,)),
    (2, 2, (2, 2, 3), (1, 1, 1)),
    (4, 4, (), ()),
    (3, 5, (), ()),
    (5, 3, (), ()),
]
RAWS = ("fresh", "gaussian", "ill-conditioned", "rank-deficient", "zero", "huge", "tiny")


def kernels(raws: tuple[str, ...]) -> list:
    """Methods, configurations and raw tensors; a third of them runs by default.

    With seven kinds of raw tensors each method meets each of them, and each configuration.
    """
    return one_in(
        3,
        (
            (cls, *c, raw)
            for cls in METHODS
            for i, c in enumerate(CONFIGURATIONS)
            for raw in raws
            if not (cls.matrices_only and c[2])
            and (not issubclass(cls, AbstractSpectral) or i % 4 == 1 or c[2:] == ((), ()))
        ),
    )


def name_of(value: object) -> str:
    """A method by its name, in names of tests."""
    return value.__name__ if isinstance(value, type) else str(value)


def set_raw_(module: nn.Module, kind: str) -> None:
    with torch.no_grad():
        for raw in module.parameters():
            if kind == "fresh" or raw.numel() == 0:
                continue
            raw.normal_()
            if kind == "ill-conditioned":
                raw *= torch.logspace(0, -6, raw.shape[-1], dtype=raw.dtype)
            elif kind == "rank-deficient":
                raw[..., 0] = 0
            elif kind in ("zero", "huge", "tiny"):
                raw *= {"zero": 0.0, "huge": 1e36, "tiny": 1e-36}[kind]


def weight_of(module: AbstractParametrization) -> Tensor:
    """The weight, for inputs of the size of the kernel where it depends on the size."""
    if isinstance(module, AbstractSpectral):
        return module.weight(module.kernel_size)
    return module.weight()


def symbol(weight: Tensor, stride: tuple[int, ...], points: tuple[int, ...]) -> Tensor:
    """The operator's matrix at each frequency of a torus, from its definition as a sum."""
    taps = torch.cartesian_prod(*map(torch.arange, weight.shape[2:])).reshape(-1, len(stride))
    frequencies = torch.cartesian_prod(*map(torch.arange, points)).reshape(-1, len(stride))
    blocks, phases = taps // torch.tensor(stride), torch.zeros(len(taps), dtype=torch.long)
    for axis, s in enumerate(stride):
        phases = phases * s + taps[:, axis] % s
    angles = 2 * math.pi * (frequencies / torch.tensor(points).double()) @ blocks.double().T
    terms = torch.einsum("ft,oit->foit", torch.exp(1j * angles), weight.flatten(2) + 0j)
    total = terms.new_zeros(*terms.shape[:3], math.prod(stride))
    return total.index_add(3, phases, terms).flatten(2)  # (f, o, i * phases)


def spectrum(module: AbstractParametrization) -> Tensor:
    weight = weight_of(module).detach().double()
    if not module.stride:
        return torch.linalg.svdvals(weight)
    points = (4,) * len(module.stride)
    if isinstance(module, AbstractSpectral):  # orthogonal on one torus only
        points = tuple(k // s for k, s in zip(module.kernel_size, module.stride, strict=True))
    return torch.linalg.svdvals(symbol(weight, module.stride, points))


@pytest.mark.parametrize(
    ("cls", "c_in", "c_out", "size", "stride", "raw"), kernels(RAWS), ids=name_of
)
def test_spectrum_keeps_the_guarantee(cls, c_in, c_out, size, stride, raw):
    for dtype, below, above in [(torch.float64, 1e-12, 1e-12), (torch.float32, 1e-5, 3e-6)]:
        module = cls(c_in, c_out, size, stride=stride, dtype=dtype)
        set_raw_(module, raw)
        assert weight_of(module).shape == (c_out, c_in, *size)
        assert weight_of(module).dtype == dtype
        if cls.guarantee == "none":
            continue
        s = spectrum(module)
        assert s.max() <= 1 + above
        if cls.guarantee == "orthogonal":
            assert s.min() >= 1 - below


@pytest.mark.parametrize(("cls", "c_in", "c_out", "size", "stride", "raw"), kernels(("gaussian",)))
def test_gradient_is_that_of_finite_differences(cls, c_in, c_out, size, stride, raw):
    module = cls(c_in, c_out, size, stride=stride, dtype=torch.float64)
    set_raw_(module, raw)
    names = list(dict(module.named_parameters()))

    def weight(*raws: Tensor) -> Tensor:
        return torch.func.functional_call(
            _Weight(module), {f"of.{n}": r for n, r in zip(names, raws, strict=True)}, ()
        )

    raws = tuple(p.detach().clone().requires_grad_() for p in module.parameters())
    if not raws:
        assert not module.weight().requires_grad
    else:
        assert torch.autograd.gradcheck(weight, raws)


class _Weight(nn.Module):
    def __init__(self, of: AbstractParametrization) -> None:
        super().__init__()
        self.of = of

    def forward(self) -> Tensor:
        return weight_of(self.of)


@pytest.mark.parametrize("cls", METHODS)
def test_no_hidden_state(cls):
    module = cls(3, 4)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    first, second = module.weight(), module.eval().weight()
    assert torch.equal(first, second)
    after = module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_state_round_trips(cls, training):
    source, target = cls(3, 4).train(training), cls(3, 4).train(training)
    with torch.no_grad(), taut.cached():
        assert not torch.equal(
            parametrizations.read_weight(source), parametrizations.read_weight(target)
        )
        target.load_state_dict(source.state_dict())
        assert torch.equal(
            parametrizations.read_weight(source), parametrizations.read_weight(target)
        )
        twin = copy.deepcopy(source)
        twin.double()
        assert parametrizations.read_weight(twin).dtype == torch.float64
        assert parametrizations.read_weight(source).dtype == torch.float32
        assert torch.allclose(twin.weight().float(), source.weight(), atol=1e-5)


def test_rko_is_the_orthonormal_reshaped_kernel_over_its_overlap():
    kernel = taut.RKO(2, 5, (3, 3), dtype=torch.float64).weight()
    matrix = 3 * kernel.reshape(5, -1)
    assert torch.allclose(matrix @ matrix.T, torch.eye(5, dtype=torch.float64))


def test_bcop_is_the_product_of_its_2x2_blocks():
    """The paper's definition, multiplied out by convolving the factors one after the other."""
    module = taut.BCOP(4, 4, (3, 3), dtype=torch.float64)
    h = module.raw_matrix.detach()  # fresh raw tensors are orthonormal already
    p = [r @ r.T for r in module.raw_projectors.detach()]
    eye = torch.eye(4, dtype=torch.float64)

    def block(p: Tensor, q: Tensor) -> Tensor:
        rows = [torch.stack((a @ q, a @ (eye - q))) for a in (p, eye - p)]
        return torch.stack(rows).permute(2, 3, 0, 1)

    factors = [h.T[:, :, None, None], block(p[0], p[1]), block(eye - p[2], eye - p[3])]
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    expected = x
    for factor in reversed(factors):  # the last factor sees the input first
        expected = F.conv2d(expected, factor)
    assert torch.allclose(F.conv2d(x, module.weight()), expected)


def test_strided_weight_is_downsampling_then_a_kernel():
    module = taut.BCOP(2, 3, (6, 4), stride=(2, 2), dtype=torch.float64)
    x = torch.randn(1, 2, 12, 12, dtype=torch.float64)
    folded = taut.nn.InvertibleDownsample2d(2)(x)
    kernel = F.pixel_unshuffle(module.weight(), 2)
    assert torch.allclose(F.conv2d(x, module.weight(), stride=2), F.conv2d(folded, kernel))


def test_odd_channels_stay_centred():
    """Half ranks are rounded down: of three channels more mass stays where it is."""
    kernel = taut.BCOP(3, 3, (5, 5), init="uniform", dtype=torch.float64).weight().detach()
    mass = kernel.square().sum((0, 1))
    assert mass.sum() == pytest.approx(3)
    place = torch.arange(5, dtype=torch.float64) - 2
    centre = (mass.sum(1) @ place).abs() + (mass.sum(0) @ place).abs()
    assert centre <= 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3, (3, 3)), "`in_channels`.*got 0"),
        ((3, -1, (3, 3)), "`out_channels`.*got -1"),
        ((3, 3, (3, 0)), r"`kernel_size`.*got \(3, 0\)"),
        ((3, 3, (3.0, 3)), r"`kernel_size`.*got \(3.0, 3\)"),
    ],
)
@pytest.mark.parametrize("cls", KERNEL_METHODS)
def test_wrong_sizes_are_refused(cls, arguments, message, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=message):
        cls(*arguments)


@pytest.mark.parametrize("cls", [cls for cls in METHODS if cls.matrices_only])
def test_methods_for_matrices_refuse_kernels(cls):
    with pytest.raises(ValueError, match=rf"`parametrization` .* taut\.BCOP; got {cls.__name__},"):
        cls(3, 3, (3, 3))


@pytest.mark.parametrize("cls", METHODS)
def test_groups_must_divide_the_channels(cls):
    with pytest.raises(ValueError, match=r"`groups` must divide the channels .* channels 4 and 3"):
        cls(4, 3, groups=2)


@pytest.mark.parametrize("cls", [cls for cls in METHODS if cls.matrices_only])
def test_methods_for_matrices_have_no_groups(cls):
    with pytest.raises(ValueError, match=f"`groups` must be 1 for {cls.__name__}; got 2"):
        cls(4, 4, groups=2)


def test_a_method_says_itself_which_sizes_it_can_do():
    class Narrow(AbstractParametrization):
        guarantee = "none"
        reference = "none"

        def check_sizes(self):
            if self.out_channels > self.in_channels * self.groups:
                raise ValueError("too wide")

        def raw_shapes(self):
            outputs = self.out_channels // self.groups
            inputs = self.in_channels // self.groups * math.prod(self.kernel_size)
            return {"raw": (self.groups, inputs, outputs)}

        def weight(self):
            return self.raw.mT.reshape(self.out_channels, -1, *self.kernel_size)

    assert Narrow(4, 6, (4, 2), stride=(2, 1), groups=2).weight().shape == (6, 2, 4, 2)
    with pytest.raises(ValueError, match="too wide"):
        Narrow(4, 10, (4, 2), stride=(2, 1), groups=2)


def test_dense_layers_of_a_model_are_those_of_the_method_on_a_matrix():
    dense = {name: cls.dense_as() for name, cls in parametrizations.methods().items()}
    orthogonal = {name for name, cls in dense.items() if cls is taut.Orthogonal}
    names = {"BCOP", "BCOPFixed", "FiniteReflector", "Orthogonal", "RKO", "SCFac"}
    assert orthogonal == names
    assert all(dense[name].__name__ == name for name in dense.keys() - orthogonal)


def test_every_method_has_a_short_name():
    assert all(vars(taut)[name] is cls for name, cls in parametrizations.methods().items())


def test_bases_of_operators_agree_with_the_dense_operator():
    """The symbol used above against the identity pushed through a circular convolution."""
    module = taut.RKO(2, 3, (4, 2), stride=(2, 1), dtype=torch.float64)

    def operator(x: Tensor) -> Tensor:
        wrapped = torch.cat((x, x[:, :, :2]), 2)
        wrapped = torch.cat((wrapped, wrapped[:, :, :, :1]), 3)
        return F.conv2d(wrapped, module.weight(), stride=(2, 1))

    dense = torch.linalg.svdvals(dense_operator(operator, (2, 8, 4)))
    symbols = torch.linalg.svdvals(symbol(module.weight().detach(), (2, 1), (4, 4))).flatten()
    assert torch.allclose(dense.sort().values, symbols.sort().values)


def train_(module: AbstractParametrization, steps: int) -> None:
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimiser.zero_grad()
        kernel = weight_of(module)
        (kernel * torch.randn(kernel.shape, generator=generator)).sum().backward()
        optimiser.step()
    assert all(raw.isfinite().all() for raw in module.parameters())


@pytest.mark.parametrize("cls", [c for c in METHODS if c.guarantee != "none"])
@pytest.mark.parametrize("steps", [400, pytest.param(2000, marks=pytest.mark.slow)])
def test_spectrum_after_optimiser_steps(cls, steps):
    module = cls(6, 8, () if cls.matrices_only else (3, 3))
    if any(True for _ in module.parameters()):
        train_(module, 200 if issubclass(cls, AbstractSpectral) else steps)
    s = spectrum(module)
    assert s.max() <= 1 + 3e-6
    if cls.guarantee == "orthogonal":
        assert s.min() >= 1 - 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("raw", ["fresh", "gaussian"])
@pytest.mark.parametrize(("channels", "kernel_size"), [(256, 7), (512, 5), (1024, 3), (64, 11)])
@pytest.mark.parametrize("cls", [taut.BCOP, taut.SCFac, taut.FiniteReflector])
def test_spectrum_of_wide_kernels_in_float32(cls, channels, kernel_size, raw):
    module = cls(channels, channels, (kernel_size, kernel_size))
    set_raw_(module, raw)
    kernel = module.weight().detach().double()
    transformed = torch.fft.fft2(kernel, s=(16, 16))
    for i, j in [(0, 0), (1, 3), (8, 8), (5, 2)]:
        s = torch.linalg.svdvals(transformed[:, :, i, j])
        assert s.max() <= 1 + 3e-6
        assert s.min() >= 1 - 1e-5


@pytest.mark.slow
def test_spectrum_of_a_wide_kernel_after_2000_steps():
    module = taut.BCOP(128, 128, (3, 3))
    train_(module, 2000)
    kernel = module.weight().detach().double()
    s = torch.linalg.svdvals(torch.fft.fft2(kernel, s=(4, 4)).permute(2, 3, 0, 1))
    assert s.max() <= 1 + 3e-6
    assert s.min() >= 1 - 1e-5


def by_functional_call(layer, raw, x):
    return torch.func.functional_call(layer, {"parametrization.raw_matrix": raw}, (x,))


def test_cached_serves_no_weight_of_a_tensor_that_is_gone():
    """A new tensor may lie at the address of one that was freed, with the same version."""
    layer, x = taut.nn.Linear(64, 64, bias=False), torch.eye(64)
    with torch.no_grad(), taut.cached():
        for seed in range(10):
            raw = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed))
            found = by_functional_call(layer, raw, x)
            assert torch.allclose(found, orthonormal_basis(raw).mT, atol=1e-5)
            found = by_functional_call(layer, raw.mT, x)  # at the same address
            assert torch.allclose(found, orthonormal_basis(raw.mT).mT, atol=1e-5)
            del raw


def test_cached_weight_that_was_written_to_is_computed_anew():
    layer = taut.nn.Linear(3, 3)
    with torch.no_grad(), taut.cached():
        expected = layer.weight.clone()
        layer.weight.mul_(2)
        assert torch.equal(layer.weight, expected)


def test_cached_under_vmap_over_raw_tensors():
    layer, x, raws = taut.nn.Linear(4, 4), torch.randn(2, 4), torch.randn(5, 4, 4)
    with torch.no_grad(), taut.cached():
        each = torch.stack([by_functional_call(layer, raw, x) for raw in raws])
        found = torch.func.vmap(lambda raw: by_functional_call(layer, raw, x))(raws)
    assert torch.allclose(found, each, atol=1e-5)


def test_cached_takes_a_model_made_in_inference_mode():
    with torch.inference_mode(), taut.cached():
        layer, x = taut.nn.Linear(4, 4, bias=False), torch.eye(4)
        layer(x)
        layer.parametrization.raw_matrix.normal_()
        assert torch.allclose(layer(x), layer.parametrization.weight().mT, atol=1e-5)


@pytest.mark.parametrize("cls", KERNEL_METHODS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_parameter_takes_part(cls, configuration):
    """A parameter without a gradient stops distributed training at its second step."""
    module = cls(*configuration[:3], stride=configuration[3])
    if any(True for _ in module.parameters()):
        weight_of(module).square().cumsum(0).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
