"""Training, evaluation, certificates and files of models on a GPU."""

import copy
import json

import pytest
import torch
from torch import nn

import taut
from experiments.speed import EXPERIMENT
from experiments.speed._modes import Captured
from gpu_layers import MARKS, METHODS, PLACE, SHAPE, layer_of, net, products
from taut.linalg.bases import orthonormal_basis
from taut.program import UnprovenError

pytestmark = MARKS

# Torch computes singular values with the help of the host.
WAITING = ("ECO", "LOT")


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(4))


def labels(count: int = 6) -> torch.Tensor:
    return torch.arange(count) % 5


def step(
    model: nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, target: torch.Tensor
) -> None:
    optimiser.zero_grad()
    nn.functional.multi_margin_loss(model(x), target).backward()
    optimiser.step()


@pytest.mark.parametrize("arithmetic", ["real", "float64", "float32"])
def test_certificates_are_those_of_the_cpu(arithmetic):
    model = net()
    here = taut.certify(model, images(), labels(), eps=(0.1,), arithmetic=arithmetic)
    with products(tf32=False):
        there = taut.certify(
            copy.deepcopy(model).to(PLACE),
            images().to(PLACE),
            labels().to(PLACE),
            eps=(0.1,),
            arithmetic=arithmetic,
        )
    assert float(there.bound) == pytest.approx(float(here.bound), rel=1e-5)
    torch.testing.assert_close(there.radius.cpu(), here.radius.cpu(), rtol=1e-3, atol=1e-5)
    assert torch.equal(there.predictions.cpu(), here.predictions.cpu())


def test_float32_certificates_refuse_products_in_tf32():
    model, x, y = net().to(PLACE), images().to(PLACE), labels().to(PLACE)
    with (
        products(tf32=True),
        pytest.raises(UnprovenError, match="needs products and convolutions in float32"),
    ):
        taut.certify(model, x, y, eps=(0.1,), arithmetic="float32")


def test_bounds_spectra_and_predictions_are_those_of_the_cpu():
    model = net()
    there = copy.deepcopy(model).to(PLACE)
    bound = taut.lipschitz_bound(there, SHAPE)
    assert float(bound) == pytest.approx(float(taut.lipschitz_bound(model, SHAPE)), rel=1e-5)
    values = taut.singular_values(there[0], SHAPE).cpu()
    torch.testing.assert_close(values, taut.singular_values(model[0], SHAPE), rtol=0, atol=1e-5)
    ours, theirs = taut.predict(there, images().to(PLACE)), taut.predict(model, images())
    assert torch.equal(ours.classes.cpu(), theirs.classes)
    torch.testing.assert_close(ours.radius.cpu(), theirs.radius, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_frozen_cached_and_live_are_one_function(name):
    layer, x = layer_of(name)
    layer, x = layer.to(PLACE).eval(), x.to(PLACE)
    with products(tf32=False), torch.no_grad():
        live = layer(x)
        with taut.cached():
            kept = [layer(x) for _ in range(2)]
        frozen = taut.freeze(layer, tuple(x.shape[1:]))
        assert {t.device.type for t in (*frozen.parameters(), *frozen.buffers())} <= {PLACE.type}
        for y in (*kept, frozen(x)):
            torch.testing.assert_close(y, live, rtol=1e-4, atol=1e-5)


def test_batched_bases_change_nothing():
    model = net().to(PLACE)
    x = images().to(PLACE)
    grads = []
    for batched in (False, True):
        model.zero_grad()
        with products(tf32=False):
            if batched:
                with taut.batched(model):
                    model(x).square().sum().backward()
            else:
                model(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for mine, expected in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-5)


def test_retraction_keeps_the_function():
    model, x = net().to(PLACE), images().to(PLACE)
    with products(tf32=False), torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.ndim > 1 else 1)
        before = model(x)
        taut.after_step(model, 16)
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_lowers_the_loss_and_keeps_the_bound(dtype):
    torch.manual_seed(0)
    model, x = net().to(PLACE), images(20).to(PLACE)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    losses = []
    for number in range(1, 33):
        optimiser.zero_grad()
        with torch.autocast(PLACE.type, dtype, enabled=dtype != torch.float32):
            logits = model(x)
        loss = nn.functional.multi_margin_loss(logits.float(), labels(20).to(PLACE))
        loss.backward()
        optimiser.step()
        taut.after_step(model, number)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert float(taut.lipschitz_bound(model, SHAPE)) <= 1 + 1e-4


def test_a_captured_training_step_trains_as_the_step_does():
    x, y = images(20).to(PLACE), labels(20).to(PLACE)
    eager = net().to(PLACE)
    graphed = copy.deepcopy(eager)
    settings = {"lr": 1e-2, "fused": True, "capturable": True}
    with products(tf32=False):
        optimiser = torch.optim.Adam(graphed.parameters(), **settings)
        replay = Captured(lambda: step(graphed, optimiser, x, y))
        for _ in range(3):
            replay()
        optimiser = torch.optim.Adam(eager.parameters(), **settings)
        for _ in range(6):  # as many as before the capture and in the replays
            step(eager, optimiser, x, y)
        torch.testing.assert_close(graphed(x), eager(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in WAITING])
def test_a_captured_forward_and_backward_are_replayed(name):
    layer, x = layer_of(name)
    layer, x = layer.to(PLACE), x.to(PLACE)

    def run() -> None:
        layer.zero_grad()
        layer(x).square().sum().backward()

    with products(tf32=False):
        run()
        expected = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        replay = Captured(run)
        x.mul_(2)
        replay()
        x.div_(2)
        replay()
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    for mine, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sizes", [(64, 32), (3, 256, 128)])
def test_a_captured_basis_follows_its_raw_tensor(sizes):
    raw = torch.randn(sizes, device=PLACE, requires_grad=True)
    found = torch.empty_like(raw)
    replay = Captured(lambda: found.copy_(orthonormal_basis(raw).detach()))
    with torch.no_grad():
        raw.normal_()
        replay()
        torch.testing.assert_close(found, orthonormal_basis(raw), rtol=0, atol=1e-5)


def test_attacks_run_there_and_obey_generators():
    model = net().to(PLACE)
    x, y = images().to(PLACE), labels().to(PLACE)
    found = [
        taut.attack(model, x, y, 0.5, steps=5, generator=torch.Generator(PLACE).manual_seed(1))
        for _ in range(2)
    ]
    assert found[0].adversarial.device.type == PLACE.type
    assert torch.equal(found[0].adversarial, found[1].adversarial)
    assert (found[0].adversarial - x).flatten(1).norm(dim=1).max() <= 0.5


def test_files_of_a_model_on_a_gpu_open_on_the_cpu(tmp_path):
    model = net()
    path = tmp_path / "net.pt2"
    taut.export.export(copy.deepcopy(model).to(PLACE), path, SHAPE)
    torch.testing.assert_close(
        taut.load(path)(images()), taut.freeze(model, SHAPE)(images()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_speed_is_measured_on_a_gpu(dtype, tmp_path, capsys):
    words = ["--device", "cuda", "--dtype", dtype, "--layers", "8x8x3@8b2", "8x4b4"]
    words += ["--nets", "stack-2x8@8b2", "--repeats", "3", "--methods", "plain-relu", "taut"]
    words += ["plain-captured", "taut-captured", "--out", str(tmp_path)]
    assert EXPERIMENT.run(words) == 0
    capsys.readouterr()
    record = json.loads((tmp_path / "record.json").read_text())
    rows = {(row["case"], row["contender"]): row for row in record["rows"]["own"]}
    for name in ("plain", "taut"):
        row = rows["stack-2x8@8b2", name]
        assert row["train"] > 0
        assert row["memory"] > 0
        assert row["launches"] > 0
        assert row["syncs"] >= 0
    assert rows["stack-2x8@8b2", "plain"]["syncs"] == 0
    assert rows["stack-2x8@8b2", "plain-captured"]["train"] > 0
    assert rows["stack-2x8@8b2", "taut-captured"]["train"] > 0
    assert record["settings"]["dtype"] == dtype
    assert record["precision"]["TF32 in cuDNN"] == (dtype != "float32")
