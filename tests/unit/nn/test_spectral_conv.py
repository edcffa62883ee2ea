"""Convolutions with kernels of the size of their input: operators, frozen layers, files."""

import copy
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import forgery
import taut
from oracles import dense_operator
from proven import assert_certified
from taut.certification import certify, verifier
from taut.linalg.fourier import spectral_product
from taut.nn import SpectralConv
from thinning import one_in

METHODS = [taut.BRO, taut.Cayley, taut.LOT, taut.SpectralQR]
CONV = {1: taut.nn.Conv1d, 2: taut.nn.Conv2d, 3: taut.nn.Conv3d}
TRANSPOSED = {1: taut.nn.ConvTranspose1d, 2: taut.nn.ConvTranspose2d, 3: taut.nn.ConvTranspose3d}
CASES = [  # method, size, channels, options
    (taut.BRO, (5,), (2, 3), {}),
    (taut.Cayley, (9, 9), (2, 4), {}),
    (taut.Cayley, (6, 5), (4, 2), {"groups": 2}),
    (taut.LOT, (4, 7), (3, 3), {"dilation": (2, 3)}),
    (taut.LOT, (1, 2), (2, 2), {}),
    (taut.SpectralQR, (6, 4), (2, 4), {"stride": (3, 1), "groups": 2}),
    (taut.SpectralQR, (2, 3, 4), (2, 2), {}),
    (taut.ECO, (9, 6), (2, 4), {}),
    (taut.ECO, (6, 12), (4, 2), {"dilation": (4, 2), "groups": 2}),
    (taut.ECO, (9, 9), (2, 3), {"stride": 3}),
]


def made(case, kinds=CONV, **more):
    method, size, channels, options = case
    options = {"parametrization": method, "dtype": torch.float64, **options, **more}
    torch.manual_seed(0)
    return kinds[len(size)](*channels, 3, **options)


def by_definition(layer: nn.Module, size: tuple[int, ...], axes: int) -> Tensor:
    """The matrix of the circular convolution with the kernel of the layer, entry by entry."""
    kernel = layer.kernel(size).detach()
    domain, groups = kernel.shape[2:], layer.groups
    places = list(np.ndindex(*domain))
    outputs = list(np.ndindex(*(n // s for n, s in zip(domain, layer.stride, strict=True))))
    c_out, c_in = kernel.shape[0], kernel.shape[1] * groups
    matrix = torch.zeros(c_out, len(outputs), c_in, len(places), dtype=torch.float64)
    for row, j in enumerate(outputs):
        for t in places:
            read = [(s * a + b) % n for s, a, b, n in zip(layer.stride, j, t, domain, strict=True)]
            column = int(np.ravel_multi_index(read, domain))
            for o in range(c_out):
                first = o // (c_out // groups) * kernel.shape[1]
                own = slice(first, first + kernel.shape[1])
                matrix[o, row, own, column] += kernel[(o, slice(None), *t)]
    return matrix.flatten(2).flatten(0, 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_are_circular_convolutions_and_semi_orthogonal(case):
    layer, shape = made(case, bias=False), (case[2][0], *case[1])
    dense = dense_operator(layer, shape)
    assert torch.allclose(dense, by_definition(layer, case[1], len(case[1])), atol=1e-12)
    assert (torch.linalg.svdvals(dense) - 1).abs().max() <= 1e-12
    assert layer.isometry in ("rows", "columns", "both")
    bound = float(taut.lipschitz_bound(layer, shape))
    assert 1 - 1e-12 <= bound <= 1 + 1e-9
    found = taut.singular_values(layer, shape) if set(layer.stride) == {1} else None
    if found is not None:
        assert torch.allclose(found, torch.linalg.svdvals(dense), atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_transposed_layers_are_the_adjoints(case):
    method, size, (c_in, c_out), options = case
    steps = options.get("stride", 1)
    steps = steps if isinstance(steps, tuple) else (steps,) * len(size)
    small = tuple(n // s for n, s in zip(size, steps, strict=True))
    layer = made(case, bias=False)
    twin = made((method, size, (c_out, c_in), options), TRANSPOSED, bias=False)
    twin.load_state_dict(layer.state_dict())
    dense = dense_operator(layer, (c_in, *size))
    assert torch.allclose(dense_operator(twin, (c_out, *small)), dense.T, atol=1e-12)
    assert float(taut.lipschitz_bound(twin, (c_out, *small))) <= 1 + 1e-9


@pytest.mark.parametrize("case", [c for c in CASES if c[0] is not taut.ECO], ids=str)
@pytest.mark.parametrize("kinds", [CONV, TRANSPOSED])
def test_zero_padding_is_pad_circular_crop(case, kinds):
    layer = made(case, kinds, padding_mode="zeros", bias=False)
    shape = (case[2][0], *case[1])
    s = torch.linalg.svdvals(dense_operator(layer, shape))
    assert s.max() <= 1 + 1e-12
    assert s.max() <= float(taut.lipschitz_bound(layer, shape)) <= 1 + 1e-9
    assert layer.isometry == ("neither" if max(layer.kernel_size) > min(layer.stride) else "both")
    if kinds is CONV and set(layer.stride) == {1}:
        x, circular = torch.randn(2, *shape, dtype=torch.float64), made(case, bias=False)
        total = [d * 2 for d in layer.dilation]
        sides = [side for t in total[::-1] for side in (t // 2, t - t // 2)]
        y = circular(nn.functional.pad(x, sides))
        crop = [slice(t // 2, t // 2 + n) for t, n in zip(total, case[1], strict=True)]
        assert torch.allclose(layer(x), y[(..., *crop)], atol=1e-12)


@pytest.mark.parametrize("method", [*METHODS, taut.ECO])
def test_one_layer_takes_every_size_and_its_state_has_none(method):
    layer = taut.nn.Conv2d(2, 4, 3, stride=1, parametrization=method)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    for size in [(9, 9), (6, 3), (3, 12), (9, 6)]:  # multiples of three, for ECO
        x = torch.randn(2, 2, *size)
        y = layer.eval()(x)
        assert y.shape == (2, 4, *size)  # 9x9 stays 9x9
        assert torch.equal(y, layer.train()(x))
        assert torch.allclose(layer(x[0]), y[0], atol=1e-6)
    after = layer.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(max(v.shape[1:], default=0) <= 4 for v in after.values())


def test_all_parameters_exist_and_train_from_the_first_step():
    """Elsewhere the scale of Cayley is made in the first forward, behind the optimiser's back."""
    model = nn.Sequential(taut.nn.Conv2d(2, 2, 3, parametrization=taut.Cayley), nn.Flatten())
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    (model(torch.rand(2, 2, 5, 4)) - 1).square().sum().backward()
    optimiser.step()
    assert all(not torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", [*METHODS, taut.ECO])
def test_evaluation_sees_every_new_weight(method):
    layer, x = taut.nn.Conv2d(2, 2, 3, parametrization=method).eval(), torch.rand(1, 2, 6, 6)
    with torch.no_grad(), taut.cached():
        first = layer(x)
        assert torch.equal(layer(x), first)
        for raw in layer.parametrization.parameters():
            raw.add_(torch.rand_like(raw))
        twin = copy.deepcopy(layer)
        assert not torch.allclose(layer(x), first)
    assert torch.equal(layer(x), twin(x))


def net(method, mode="circular") -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    options = {"parametrization": method, "padding_mode": mode}
    layers = [
        taut.nn.Conv2d(2, 4, 3, groups=2, **options), taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 6, 4, 2, **options), taut.nn.MaxMin(),
        taut.nn.ConvTranspose2d(6, 2, 2, 2, **options), nn.Flatten(),
        taut.nn.Linear(72, 3, parametrization=method),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval(), (2, 6, 5)


@pytest.mark.parametrize(
    ("method", "mode"), one_in(3, itertools.product(METHODS, ["circular", "zeros"]))
)
def test_frozen_is_the_model_bit_for_bit_and_of_one_size(method, mode):
    model, shape = net(method, mode)
    frozen, x = taut.freeze(model, shape), torch.rand(3, *shape)
    with torch.no_grad():
        assert torch.equal(frozen(x), model(x))
    assert [type(frozen[i]) for i in (0, 2, 4)] == [SpectralConv] * 3
    assert type(frozen[6]) is nn.Linear
    assert not any("raw" in key for key in frozen.state_dict())
    assert not any(p.requires_grad for p in frozen.parameters())
    bounds = [float(taut.lipschitz_bound(m, shape)) for m in (model, frozen)]
    assert bounds[0] == bounds[1] <= 1 + 1e-5
    with pytest.raises(ValueError, match=r"spatial size \(6, 5\), for which .* got \(7, 5\)"):
        frozen(torch.rand(1, 2, 7, 5))
    twin = copy.deepcopy(frozen)
    twin.load_state_dict(frozen.state_dict())
    assert torch.equal(twin(x), frozen(x))
    assert torch.allclose(frozen[0](x[0]), frozen[0](x)[0], atol=1e-6)


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_certificates_are_those_of_the_model_and_the_verifier_proves_them(arithmetic, tmp_path):
    model, shape = net(taut.Cayley, "zeros")
    frozen, x = taut.freeze(model, shape), torch.rand(4, *shape)
    labels = model(x).argmax(1)
    found = [certify(m, x, labels, (0.1,), arithmetic=arithmetic) for m in (model, frozen)]
    assert torch.equal(found[0].radius, found[1].radius)
    assert (found[0].radius > 0.1).any()
    paths = found[1].save(Path(tmp_path, "certificate.json"))
    np.savez(tmp_path / "points.npz", images=x.numpy())
    assert "radii and answers of 4 images" in verifier.verify(*paths, tmp_path / "points.npz")
    # The program, run by the verifier in float64, is the model.
    file = verifier.read_certificate(paths[0])
    runs = verifier.check_graph(file, verifier.read_weights(paths[1], file))
    z = np.stack([verifier.logits_of(file, runs, image) for image in x.double().numpy()])
    np.testing.assert_allclose(z, model.double()(x.double()).detach().numpy(), atol=1e-5)


def test_the_verifier_proves_matrices_of_which_one_is_zero(tmp_path):
    layer = taut.freeze(taut.nn.Conv2d(2, 2, 3, parametrization=taut.LOT), (2, 4, 3))
    for part in (layer.real, layer.imag):
        part[3] = 0.0
    assert assert_certified(layer, (2, 4, 3), tmp_path) <= 1 + 3e-6


def test_the_verifier_refuses_matrices_that_make_no_real_operator(tmp_path):
    layer = taut.freeze(taut.nn.Conv2d(2, 2, 3, parametrization=taut.LOT), (2, 4, 3))
    content, tensors = forgery.opened(*forgery.honest(layer, (2, 4, 3), tmp_path))
    for name, change, words in (
        ("imag", lambda t: t.index_fill(0, torch.tensor(0), 0.1), "no matrix for each frequency"),
        ("real", lambda t: t[:-1].contiguous(), "no matrix for each frequency"),
        ("real", lambda t: 1.01 * t, "its norm is not proven to be within its gain"),
        ("bias", lambda t: t[:1].contiguous(), "its bias is not one number an output"),
    ):
        changed = tensors | {name: change(tensors[name])}
        with pytest.raises(verifier.Refused, match=words):
            verifier.verify(*forgery.forge(tmp_path, content, changed))


@pytest.mark.parametrize(
    ("suffix", "frozen"),
    one_in(2, itertools.product([".onnx", ".pt2", ".safetensors"], [True, False])),
)
def test_files_hold_the_function_as_circular_convolutions(suffix, frozen, tmp_path):
    model, shape = net(taut.LOT, "zeros")
    x = torch.rand(3, *shape)
    path = tmp_path / f"model{suffix}"
    source = taut.freeze(model, shape) if frozen else model
    exported = taut.export.export(source, path, shape)
    with torch.no_grad():
        assert torch.allclose(exported.model(x), model(x), atol=1e-5)
    assert float(taut.lipschitz_bound(*exported)) <= 1 + 1e-5
    read = taut.export.load(path)
    assert torch.allclose(read.model(x), exported.model(x), atol=1e-6)
    if suffix == ".onnx" and importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path.read_bytes())
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.abs(y - model(x).detach().numpy()).max() < 1e-5


@pytest.mark.parametrize("options", [{}, {"kernel_size": 2}, {"dilation": 2}, {"groups": 2}])
def test_eco_freezes_to_a_plain_dilated_convolution(options):
    options = {"kernel_size": 3, "parametrization": taut.ECO, **options}
    layer, shape = taut.nn.Conv2d(4, 6, **options, dtype=torch.float64), (4, 12, 6)
    frozen = taut.freeze(layer, shape)
    plain = frozen if isinstance(frozen, nn.Conv2d) else frozen[-1]
    assert isinstance(plain, nn.Conv2d)
    assert plain.kernel_size == (options["kernel_size"],) * 2
    x = torch.rand(2, *shape, dtype=torch.float64)
    assert torch.allclose(frozen(x), layer(x), atol=1e-12)
    assert float(taut.lipschitz_bound(frozen, shape)) <= 1 + 1e-9


@pytest.mark.parametrize("mode", ["circular", "zeros"])
@pytest.mark.parametrize("method", [taut.BRO, taut.Cayley, taut.LOT])
def test_windows_are_plain_convolutions_of_a_proven_norm(method, mode):
    torch.manual_seed(0)
    options = {"parametrization": method, "padding_mode": mode, "dtype": torch.float64}
    model = nn.Sequential(taut.nn.Conv2d(2, 4, 3, **options), taut.nn.Conv2d(4, 4, 4, 2, **options))
    shape = (2, 8, 10)
    frozen = taut.freeze(model, shape, window=5)
    plain = [m for m in frozen.modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size for m in plain] == [(5, 5), (6, 6)]
    assert float(taut.lipschitz_bound(frozen, shape)) <= 1 + 1e-9
    s = torch.linalg.svdvals(dense_operator(lambda x: frozen(x) - frozen(0 * x), shape))
    assert s.max() <= 1 + 1e-12
    x = torch.rand(1, *shape, dtype=torch.float64)
    assert not torch.allclose(frozen(x), model(x), atol=1e-6)  # another function
    wide = taut.freeze(model[:1], shape, window=11)
    if mode == "circular":  # nothing is cut
        assert torch.allclose(wide(x), model[0](x), atol=1e-9)


def test_freeze_says_what_it_needs():
    shared = taut.nn.Conv2d(2, 2, 3, parametrization=taut.LOT)
    several = nn.Sequential(shared, nn.MaxPool2d(2), shared)
    for arguments, message in (
        ((several,), r"`input_shape` must be given to freeze `0` \(Conv2d\): its LOT kernel"),
        ((several, (2, 8, 8)), r"`0` \(Conv2d\) is given inputs of the sizes \[\(4, 4\), \(8, 8\)"),
        ((several, (3, 8, 8)), r"`input_shape` \(3, 8, 8\) does not fit the model: `input` must"),
        ((nn.ModuleDict({"a": shared}), (2, 8, 8)), "`input_shape` .* does not fit the model"),
    ):
        with pytest.raises(ValueError, match=message):
            taut.freeze(*arguments)
    with pytest.raises(ValueError, match="`window` must be None: no kernel fills"):
        taut.freeze(nn.Sequential(nn.ReLU()), window=3)
    with pytest.raises(ValueError, match="`window` must be a positive integer; got 0"):
        taut.freeze(shared, (2, 8, 8), window=0)
    transposed = taut.nn.ConvTranspose2d(2, 2, 3, parametrization=taut.LOT)
    with pytest.raises(ValueError, match="`window` must be None for a model with transposed"):
        taut.freeze(transposed, (2, 8, 8), window=3)


def test_axes_longer_than_64_use_the_fast_transform_and_have_no_float_proof():
    layer = taut.nn.Conv1d(2, 2, 3, parametrization=taut.LOT, dtype=torch.float64)
    x = torch.randn(2, 2, 70, dtype=torch.float64)
    y = layer(x) - layer.bias[:, None]
    assert torch.allclose(y.norm(), x.norm())
    assert float(taut.lipschitz_bound(layer, (2, 70))) <= 1 + 1e-9
    for size in ((70, 3), (3, 70), (66, 67)):
        module = taut.LOT(2, 3, (3, 3), dtype=torch.float64)
        image = torch.randn(1, 2, *size, dtype=torch.float64)
        symbol = module.symbol(size)
        found = spectral_product(image, symbol.real, symbol.imag, size)
        kernel = torch.fft.fft2(module.weight(size)).conj()  # sum K_t e^{+i w t}
        wave = torch.einsum("oihw,bihw->bohw", kernel, torch.fft.fft2(image))
        assert torch.allclose(found, torch.fft.ifft2(wave).real, atol=1e-10)
    model = nn.Sequential(layer, nn.Flatten(), taut.nn.Linear(140, 2, dtype=torch.float64))
    labels = torch.zeros(2).long()
    with pytest.raises(ValueError, match="an axis is longer than 64, and nothing is proven"):
        taut.certify(model, x, labels, (0.1,))
    assert taut.certify(model, x, labels, (0.1,), arithmetic="real").radius.shape == (2,)


def test_gain_counts_in_the_bound():
    layer = taut.nn.Conv2d(2, 2, 3, parametrization=taut.LOT, gain=2.0)
    for module in (layer, taut.freeze(layer, (2, 5, 5)), taut.freeze(layer, (2, 5, 5), window=3)):
        assert float(taut.lipschitz_bound(module, (2, 5, 5))) == pytest.approx(2, rel=1e-5)
