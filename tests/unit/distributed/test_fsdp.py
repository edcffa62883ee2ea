"""Every operation on a model that `fully_shard` distributed equals that on the whole model."""

import re
from pathlib import Path

import pytest
import torch

import taut
from processes import both_say

WORKER = Path(__file__).with_name("fsdp_worker.py")
CHECKS = re.findall(r"^@check\ndef (\w+)", WORKER.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    return both_say(WORKER, tmp_path_factory.mktemp("fsdp"))


@pytest.mark.parametrize("name", CHECKS)
def test_sharded_models(name, said):
    for found in said:
        assert found[name] == "", found[name]


def test_whole_models_are_left_alone():
    layer = taut.nn.Linear(3, 3)
    parameters = list(layer.parameters())
    with taut.gathered(layer):
        assert all(a is b for a, b in zip(parameters, layer.parameters(), strict=True))
        with torch.no_grad():
            layer.bias.fill_(2.0)
    assert torch.equal(layer.bias, torch.full((3,), 2.0))
