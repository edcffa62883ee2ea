"""Weights and losses that several processes of DDP compute together."""

import re
from pathlib import Path

import pytest
import torch

import taut
from processes import both_say

WORKER = Path(__file__).with_name("ddp_sharing_worker.py")
CHECKS = re.findall(r"^@check\ndef (\w+)", WORKER.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    return both_say(WORKER, tmp_path_factory.mktemp("sharing"))


@pytest.mark.parametrize("name", CHECKS)
def test_processes_agree(name, said):
    for found in said:
        assert found[name] == "", found[name]


def test_one_process_computes_its_own_weights():
    layer = taut.nn.Linear(3, 3)
    x = torch.rand(2, 3)
    expected = layer(x)
    with taut.shared_weights(layer):
        assert torch.equal(layer(x), expected)
