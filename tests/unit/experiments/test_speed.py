"""`experiments.speed` measures what it says: cases, contenders, times, spectra, floor, memory."""

import contextlib
import copy
import sys
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import taut
from experiments.speed import _launches, _modes, _rows, _spectra, _timing
from experiments.speed._cases import LayerCase, parse_case, parse_layer, parse_net
from experiments.speed._contenders import Contender, contenders, load_contender, select, twin
from experiments.speed._floors import floor, plain_flops
from experiments.speed._groups import GPU_GROUPS, GROUPS, NAMED, PAPER, QUICK_GROUPS, QUICK_NAMED
from experiments.speed._growth import growth, save_plots
from experiments.speed._memory import peak_memory
from experiments.speed._rows import SpeedRow, measure
from experiments.speed._spectra import orthogonality
from experiments.speed._timing import TimingSettings, alternate, in_turns, inputs, training_run
from experiments.speed._ways import Way, fastest, ways
from experiments.speed.paper_bcop import PaperConv
from taut.linalg.block import grow

QUICK = TimingSettings(repeats=1)


@pytest.mark.parametrize(
    "name",
    [
        "8x16x3@16b16",
        "8x16x4s2@32b4",
        "4096x512b128",
        "large-cifar10b128",
        "wide-mnistb128",
        "stack-3x8@16b2",
    ],
)
def test_names_are_read_back(name):
    assert parse_case(name).name == name


ZEROS = ("8x8x0", "8x8x3s0", "8x8x3@0", "8x8x3b0", "8x0")


@pytest.mark.parametrize("text", [*("8x", "8x8x3s", "0x8x3", "8x8x3s3@16", "x", "8x8x3 "), *ZEROS])
def test_what_is_no_layer_is_refused(text):
    with pytest.raises(ValueError, match=r"A layer is|multiple"):
        parse_layer(text)


@pytest.mark.parametrize(
    "text", ["large", "large-imagenet", "stack-0x8", "stack-8", "small-mnistb0"]
)
def test_what_is_no_net_is_refused(text):
    with pytest.raises(ValueError, match="A net is"):
        parse_net(text)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", ["4x6x3@6b2", "4x6x4s2@8b2", "6x4x2@6b2", "2x6x2s2@4b1", "6x4b2"])
def test_every_contender_maps_the_same_shapes(name):
    case = parse_layer(name)
    x = inputs(case, QUICK)
    expected = contenders()["plain"].build(case)(x).shape
    for contender in contenders().values():
        if contender.nets_only:
            continue
        with contextlib.suppress(ImportError, ValueError):  # has no such layer
            assert contender.build(case)(x).shape == expected, contender.name


def test_methods_are_found_without_being_named():
    assert set(taut.parametrizations.methods()) <= set(contenders())
    assert [x.name for x in select(["RKO"])] == ["plain", "RKO"]
    with pytest.raises(ValueError, match="no method 'nope'"):
        select(["nope"])


def test_twin_of_a_net_has_its_shapes():
    case = parse_net("large-mnistb2")
    net, x = case.build(), inputs(case, QUICK)
    plain = twin(net, contenders()["plain"])
    for ours, theirs in zip(net, plain, strict=True):
        y = ours(x)
        assert y.shape == theirs(x).shape
        x = y
    assert not any(type(m).__module__.startswith("taut.parametrizations") for m in plain.modules())


class Doubled(nn.Module):
    """A layer of no library: twice a plain convolution."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 2 * self.layer(x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(2, 3), (3, 2), (1, 5)])
def test_spectrum_of_any_convolution_is_exact(stride, channels):
    kernel = 3 if stride == 1 else 4
    layer = nn.Conv2d(*channels, kernel, stride, 1, padding_mode="circular")
    case = LayerCase(*channels, kernel, stride=stride, size=6, batch=1)
    values = 2 * taut.singular_values(layer, case.input_shape)
    found = orthogonality(Doubled(layer), case)
    assert found.error == pytest.approx(float((values - 1).abs().max()), abs=1e-6)
    assert found.above == pytest.approx(float(values.max() - 1), abs=1e-6)


def test_spectrum_of_a_net_is_that_of_its_worst_layer():
    case = parse_net("small-mnistb1")
    net = twin(case.build(), contenders()["plain-circular"])
    shapes = [(1, 28, 28), (16, 14, 14), (32 * 7 * 7,), (100,)]
    layers = [layer for layer in net if any(True for _ in layer.parameters())]
    values = [taut.singular_values(*pair) for pair in zip(layers, shapes, strict=True)]
    worst = max(float((x - 1).abs().max()) for x in values)
    assert orthogonality(net, case).error == pytest.approx(worst, abs=1e-6)


def test_a_smaller_torus_has_some_of_the_frequencies(monkeypatch):
    case = LayerCase(2, 2, 3, size=12, batch=1)
    layer = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", bias=False)
    full = orthogonality(layer, case)
    monkeypatch.setattr(_spectra, "_WORK", 0)
    part = orthogonality(layer, case)
    expected = taut.singular_values(layer, (2, 3, 3))
    assert part.above == pytest.approx(float(expected.max() - 1), abs=1e-6)
    assert part.above <= full.above + 1e-6


def test_no_spectrum_is_made_up_for_another_operator():
    layer = nn.Conv2d(2, 2, 3, padding=1, bias=False)
    with pytest.raises(ValueError, match="torus"):
        orthogonality(layer, LayerCase(2, 2, 3, size=6, batch=1))


def test_taut_is_orthogonal_in_its_row():
    rows = measure(parse_layer("6x4x3@6b1"), select(["taut", "RKO"]), QUICK)
    found = {row.contender: row for row in rows}
    assert found["taut"].error < 1e-5
    assert found["RKO"].error > 1e-2
    assert found["plain"].error is None


def test_rounds_alternate_and_ratios_are_of_a_round(monkeypatch):
    clock = iter(range(10_000))
    order = []

    def seconds(run, device, count=1):
        order.append(run())
        return {"a": 1.0, "b": 2.0}[order[-1]] * next(clock)

    monkeypatch.setattr(_timing, "seconds_of", seconds)
    runs = {"a": lambda: "a", "b": lambda: "b"}
    times, failed = alternate(runs, torch.device("cpu"), repeats=4)
    assert not failed
    assert order[-8:] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {len(x) for x in times.values()} == {4}
    assert _timing.median_ratio([4.0, 9.0, 1.0], [1.0, 3.0, 1.0]) == 3.0


def test_no_round_begins_after_the_time_but_three():
    runs = {"slow": lambda: time.sleep(0.01)}
    times, _ = alternate(runs, torch.device("cpu"), repeats=50, seconds=0.0)
    assert len(times["slow"]) == 3


def test_who_has_used_its_time_rests(monkeypatch):
    """Ratios are taken in the rounds that both took part in: the first ones."""
    monkeypatch.setattr(_timing, "seconds_of", lambda run, *rest: run())
    runs = {"fast": lambda: 0.1, "slow": lambda: 1.0}
    took = {"fast": 0.1, "slow": 1.0}
    times = in_turns(runs, took, torch.device("cpu"), repeats=10, each=0.85)
    assert {name: len(taken) for name, taken in times.items()} == {"fast": 9, "slow": 3}
    assert _timing.median_ratio([8.0, 9.0, 6.0], [1.0, 3.0, 1.0, 99.0, 99.0]) == 6.0


def test_the_fastest_way_makes_the_row(monkeypatch):
    monkeypatch.setattr(_timing, "seconds_of", lambda run, *rest: run())
    seconds = {"zeros": 2.0, "circular": 1.9, "far slower": 9.0, "other": 1.0}
    made = {name: (lambda x=x: lambda: x) for name, x in seconds.items()}
    made["broken"] = lambda: 1 / 0
    rows = {"plain": ["zeros", "circular", "far slower"], "taut": ["other"], "none": ["broken"]}
    rows |= {"plain-circular": ["circular"]}
    best, notes = fastest(made, rows, TimingSettings(repeats=4), seconds=100.0)
    assert {row: (x.way, x.times) for row, x in best.items()} == {
        "plain": ("circular", [1.9] * 4),
        "taut": ("other", [1.0] * 4),
        "plain-circular": ("circular", [1.9] * 4),
    }
    assert notes == {"none": "ZeroDivisionError: division by zero"}


def test_plain_is_the_fastest_of_both_paddings_and_both_formats(monkeypatch):
    """Whichever is made the fastest is what ratios are over, and the row says so."""
    case = parse_net("stack-1x4@6b2")
    known = contenders()
    zeros, circular = (known[name].build(case)[0] for name in ("plain", "plain-circular"))
    assert (zeros.padding_mode, circular.padding_mode) == ("zeros", "circular")
    four = {"zeros, channels first": 4.0, "zeros, channels last": 5.0}
    four |= {"circular, channels first": 3.0, "circular, channels last": 6.0}
    seen = set()

    def run(self, *rest):
        seen.add((self.contender.name, self.way.setting))
        seconds = four.get(self.way.setting, {"channels first": 9.0}.get(self.way.setting, 12.0))
        return lambda: seconds

    monkeypatch.setattr(_timing, "seconds_of", lambda run, *rest: run())
    for part in ("training", "evaluation", "frozen_evaluation"):
        monkeypatch.setattr(_rows.Candidate, part, run)
    monkeypatch.setattr(_rows, "_remember", lambda *rest: None)
    monkeypatch.setattr(_rows, "_look", lambda *rest: None)
    rows = {row.contender: row for row in measure(case, select(["taut"]), QUICK)}
    assert seen >= {("plain-circular" if "circ" in x else "plain", x) for x in four}
    assert rows["plain"].train_setting == rows["plain"].eval_setting == "circular, channels first"
    assert (rows["plain"].train, rows["plain"].train_ratio) == (3.0, 1.0)
    assert rows["taut"].train_setting == "channels first"
    assert rows["taut"].train_ratio == rows["taut"].eval_ratio == 3.0
    assert rows["taut"].frozen_ratio == 3.0


def test_formats_are_those_of_images_and_weights():
    case = parse_net("stack-1x4@6b2")
    plain, weights = contenders()["plain"], []
    for way in ways(plain, case):
        assert way.images(case, QUICK).is_contiguous(memory_format=way.memory_format)
        weights.append(way.build(plain, case, QUICK)[0].weight)
        assert weights[-1].is_contiguous(memory_format=way.memory_format)
    assert torch.equal(*weights)
    dense = ways(contenders()["taut"], parse_layer("6x4b2"))
    assert dense == [Way("taut", "")]
    assert [way.format for way in ways(contenders()["taut-compiled"], case)] == ["channels last"]


def test_sizes_that_no_plain_layer_has_are_rows_in_words():
    rows = {x.contender: x for x in measure(parse_layer("4x6x2s4@8b2"), select(["taut"]), QUICK)}
    assert rows["plain"].note == "no symmetric padding fits kernel size 2 with stride 4"
    assert (rows["plain"].train, rows["taut"].train_ratio) == (None, None)


def test_relu_replaces_maxmin_alone():
    case = parse_net("stack-2x4@6b2")
    plain, relu = (contenders()[name].build(case) for name in ("plain", "plain-relu"))
    assert [type(x) for x in relu] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert [type(x) for x in plain] == [nn.Conv2d, taut.nn.MaxMin, nn.Conv2d]


def test_who_takes_part_fits_the_case():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    dense, net = parse_layer("6x4b2"), parse_net("stack-1x4@6b2")
    known = contenders()
    assert not known["plain-circular"].takes(dense, cpu)
    assert not known["plain-relu"].takes(dense, cpu)
    assert not known["taut-captured"].takes(net, cpu)
    assert known["taut-captured"].takes(net, cuda)
    assert known["taut-compiled"].takes(net, cpu)
    assert not [x.name for x in select([]) if x.mode]


def test_batched_runs_the_same_net():
    case = parse_net("stack-2x4@6b2")
    net, x = contenders()["taut"].build(case), inputs(case, QUICK)
    wrapped = _modes.Batched(net)
    assert list(wrapped.parameters()) == list(net.parameters())
    torch.testing.assert_close(wrapped(x), net(x))


def test_waits_and_launches_are_counted(monkeypatch):
    """Without a GPU: torch's warnings and events are made up; other ones do not count."""
    kernel, call = (SimpleNamespace(device_type=f"DeviceType.{x}") for x in ("CUDA", "CPU"))
    profiled = SimpleNamespace(events=lambda: [kernel, call, kernel, kernel])
    modes = []

    def run():
        if modes[-1] == "warn":
            for words in ("called a synchronizing CUDA operation", "something else") * 2:
                warnings.warn(words, stacklevel=1)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(_launches, "profile", lambda **_: contextlib.nullcontext(profiled))
    assert _launches.launches(run) == (3, 2)
    assert modes == ["warn", "default"]


def test_without_a_compiler_the_row_says_so(monkeypatch):
    monkeypatch.setattr(_modes, "_compiler_works", lambda device: False)
    rows = measure(parse_net("stack-1x4@4b2"), select(["plain-compiled"]), QUICK)
    assert [row.note for row in rows] == [
        "",
        "RuntimeError: torch.compile needs a working compiler",
    ]
    assert rows[1].train is None


def test_groups_are_made_of_cases():
    for groups in (GROUPS, GPU_GROUPS, NAMED, QUICK_GROUPS, QUICK_NAMED):
        for group in groups.values():
            assert [parse_case(name) for name in group.cases]
            missing = set(group.contenders) - set(contenders())
            assert missing <= {"taut-optim"}


def test_a_layer_run_yields_all_gradients():
    case = parse_layer("3x4x3@6b2")
    layer = contenders()["taut"].build(case)
    training_run(layer, case, QUICK)()
    assert all(p.grad is not None for p in layer.parameters())


def test_a_net_run_is_a_step_of_adam():
    case = parse_net("small-mnistb4")
    net = twin(case.build(), contenders()["plain"])
    other, x = copy.deepcopy(net), inputs(case, QUICK)
    training_run(net, case, QUICK)()
    optimiser = torch.optim.Adam(other.parameters())
    nn.functional.multi_margin_loss(other(x), torch.arange(4) % 10).backward()
    optimiser.step()
    for mine, expected in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def test_who_cannot_is_a_row_in_words(monkeypatch):
    class FailsBackwards(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no way back")

    class Broken(nn.Linear):
        def forward(self, x):
            return FailsBackwards.apply(super().forward(x))

    def refuse(*sizes):
        raise ValueError("not today")

    # None there makes the import fail, as if it were not installed.
    monkeypatch.setitem(sys.modules, "orthogonium.layers", None)
    chosen = [
        *select(["taut", "orthogonium"]),
        Contender("refuses", refuse, refuse),
        Contender("breaks", nn.Conv2d, Broken),
    ]
    rows = {row.contender: row for row in measure(parse_layer("6x4b2"), chosen, QUICK)}
    assert rows["taut"].train_ratio > 0
    assert rows["taut"].note == ""
    assert rows["orthogonium"].note == "not installed: pip install orthogonium"
    assert rows["refuses"].note == "not today"
    assert rows["breaks"].note == "RuntimeError: no way back"
    assert all(rows[name].train is None for name in ("orthogonium", "refuses", "breaks"))


def test_the_same_is_not_timed_twice():
    rows = measure(parse_layer("6x4x3@6b1"), select(["taut", "BCOP"]), QUICK)
    assert [row.note for row in rows] == ["", "", "the default: see taut"]
    rows = measure(parse_layer("6x4x3@6b1"), select(["BCOP"]), QUICK)
    assert rows[1].train > 0


def test_contender_files_are_checked(tmp_path):
    good = tmp_path / "good.py"
    good.write_text(
        "from torch import nn\nNAME = 'mine'\nlinear = nn.Linear\n"
        "def conv(i, o, k, s):\n"
        "    return nn.Conv2d(i, o, k, s, (k - s) // 2, padding_mode='circular')\n"
    )
    assert [x.name for x in select(["taut"], [good])] == ["plain", "taut", "mine"]
    for content, words in (("NAME = 'x'", "lacks conv"), ("1 / 0", "ZeroDivisionError")):
        bad = tmp_path / "bad.py"
        bad.write_text(content)
        with pytest.raises(ValueError, match=words):
            load_contender(bad)


def test_floor_counts_what_the_products_count():
    """Against the counter of torch, over products written out one by one."""
    c, k, n = 8, 3, 5
    taps = torch.randn(1, 1, 1, c, c, requires_grad=True)
    bases = torch.randn(4, c, c // 2, requires_grad=True)
    x = torch.randn(n, c, requires_grad=True)
    with FlopCounterMode(display=False) as built:
        kernel = taps
        for basis, axis in zip(bases, (0, 1, 0, 1), strict=True):
            kernel = grow(kernel, basis[None], axis)
        kernel.sum().backward()
    with FlopCounterMode(display=False) as applied:
        y = x @ taps[0, 0, 0]
        for basis in bases:
            y = y - (y @ basis) @ basis.mT
        y.sum().backward()
    small = LayerCase(c, c, k, size=16, batch=1)
    raws = 6 * c * c * c + c**3 / 3 + 4 * (6 * c * (c // 2) ** 2 + (c // 2) ** 3 / 3)
    per_position = applied.get_total_flops() / n
    assert floor(small).flops == pytest.approx(
        raws + min(built.get_total_flops() + plain_flops(small), per_position * small.positions)
    )
    assert per_position == 3 * 10 * c * c


def test_floor_of_a_net_is_the_sum():
    case = parse_net("stack-3x16@8b2")
    one = floor(LayerCase(16, 16, 3, size=8, batch=2))
    assert floor(case).flops == pytest.approx(3 * one.flops)
    assert floor(case).bytes == pytest.approx(3 * one.bytes)


def test_floor_of_a_dense_layer_is_above_plain_and_below_forming_a_basis():
    case = parse_layer("4096x512b128")
    forming = plain_flops(case) + 6 * 4096 * 512**2
    assert plain_flops(case) < floor(case).flops < forming


@pytest.mark.slow
def test_memory_counts_what_a_layer_keeps(tmp_path):
    """A contender that keeps another 96 MB for its backward needs another 96 MB."""
    file = tmp_path / "hoard.py"
    file.write_text(
        "import torch\nfrom torch import nn\nNAME = 'hoard'\nlinear = nn.Linear\n"
        "class conv(nn.Conv2d):\n"
        "    def __init__(self, i, o, k, s):\n"
        "        super().__init__(i, o, k, s, (k - s) // 2, padding_mode='circular')\n"
        "    def forward(self, x):\n"
        "        self.kept = torch.ones(24 << 20)\n"
        "        return super().forward(x)\n"
    )
    case = parse_net("stack-1x8@8b2")
    plain = peak_memory(case, Way("plain", "channels first", "zeros"), QUICK)
    hoard = peak_memory(case, Way("hoard", "channels first"), QUICK, [file])
    assert 0 < plain < 40e6
    # The next step makes its tensor before the last one goes.
    assert 90e6 < hoard - plain < 2.2 * 100e6


def test_memory_of_a_failed_process_says_why():
    with pytest.raises(RuntimeError, match=r"not measured.*KeyError"):
        peak_memory(parse_net("stack-1x8@8b2"), Way("nobody", "channels first"), QUICK)


def test_exponents_are_recovered(tmp_path):
    rows = [
        SpeedRow(f"{c}x{c}x3@16b16", name, train=scale * c**power)
        for c in (8, 16, 32, 64)
        for name, scale, power in (("plain", 1e-6, 2.0), ("taut", 3e-6, 1.5))
    ]
    rows += [SpeedRow(f"stack-{n}x8@16b16", "plain", train=1e-3 * n) for n in (1, 2, 4)]
    found = growth(rows)
    assert found["channels"] == {"plain": pytest.approx(2), "taut": pytest.approx(1.5)}
    assert found["depth"] == {"plain": pytest.approx(1)}
    files = save_plots(rows, tmp_path)
    assert sorted(file.name for file in files) == ["channels.png", "depth.png"]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files)


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(8, 8, 3), (8, 4, 2), (4, 8, 3)])
def test_paper_has_the_kernel_of_taut_for_the_same_projectors(inputs, outputs, kernel):
    ours = taut.BCOP(inputs, outputs, (kernel, kernel))
    paper = PaperConv(inputs, outputs, kernel)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        raws = torch.randn(ours.raw_projectors.shape, generator=generator)
        ours.raw_projectors.copy_(raws)
        # Every second turn of ours is [I - P, P]: the paper's step of the complement.
        complement = torch.linalg.qr(raws, mode="complete").Q[..., raws.shape[-1] :]
        turned = torch.tensor([i // 2 % 2 == 1 for i in range(len(raws))])
        paper.raw_projectors.copy_(torch.where(turned[:, None, None], complement, raws))
        rest = torch.linalg.qr(ours.raw_matrix, mode="complete").Q[:, ours.raw_matrix.shape[1] :]
        paper.raw_matrix.copy_(torch.cat((ours.raw_matrix, rest), dim=1).mT)
    torch.testing.assert_close(paper.kernel(), ours.weight(), rtol=0, atol=1e-5)


def test_paper_is_orthogonal_as_a_contender():
    chosen = select(["taut"], [PAPER])
    for name in ("4x6x4s2@8b1", "6x4x3@6b1", "12x5b2"):
        rows = {row.contender: row for row in measure(parse_layer(name), chosen, QUICK)}
        assert rows["paper"].error < 1e-5
