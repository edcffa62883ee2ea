"""`experiments.methods` and `experiments.methods_on_mnist` measure every method of taut."""

import json

import pytest
import torch

from experiments import methods, methods_on_mnist
from taut.models import layers
from taut.parametrizations import methods as parametrizations

DIVIDING = {"BRO", "Cayley", "LOT", "SpectralQR"}  # strides that divide the kernel size


def test_every_method_with_kernels_has_a_layer():
    kernels = {name for name, method in parametrizations().items() if not method.matrices_only}
    assert kernels < set(layers())


@pytest.mark.parametrize("name", layers())
def test_layers_keep_and_change_channels_and_sizes(name):
    assert layers()[name](4, 4, 3, 1)(torch.rand(2, 4, 8, 8)).shape == (2, 4, 8, 8)
    if name in DIVIDING:
        with pytest.raises(ValueError, match=r"^`\w+`"):
            layers()[name](4, 8, 3, 2)
    else:
        assert layers()[name](4, 8, 3, 2)(torch.rand(2, 4, 8, 8)).shape == (2, 8, 4, 4)


def test_large_has_the_layers_of_a_method():
    net = methods_on_mnist.large("PotentialResidual2d, SLL", (1, 8, 8), 10)
    kinds = [type(module).__name__ for module in net.modules()]
    assert kinds.count("PotentialResidual2d") == 4
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
def test_a_record_is_completed_and_shown(tmp_path, monkeypatch, capsys):
    path = tmp_path / "methods.json"
    words = ["--quick", "--repeats", "1", "--threads", "1", "--record", str(path), "--methods"]
    assert methods.EXPERIMENT.run([*words, "BCOP"]) == 0
    assert methods.EXPERIMENT.run([*words, "BCOP", "RKO"]) == 0
    record = json.loads(path.read_text())
    assert [row["name"] for row in record["cost 8"]] == ["BCOP", "RKO"]
    first, second = record["spectra"]
    assert first["trained"] == pytest.approx([1, 1], abs=1e-5)
    assert second["fresh"][0] < 0.9
    monkeypatch.setattr(methods, "RECORD", path)
    lines = methods.methods_table().splitlines()
    assert len(lines) == 4
    assert f"| {record['cost 8'][1]['step over plain']:.2f} |" in lines[3]
    capsys.readouterr()
