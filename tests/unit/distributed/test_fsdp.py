"""Every operation on a model that `fully_shard` distributed equals that on the whole model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import taut

WORKER = Path(__file__).with_name("fsdp_worker.py")
CHECKS = re.findall(r"^@check\ndef (\w+)", WORKER.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each of two processes found, by the name of the check; empty if it holds."""
    folder = tmp_path_factory.mktemp("fsdp")
    settings = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command, options = [sys.executable, str(WORKER), str(folder)], {"stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen(command, env=os.environ | settings | {"RANK": str(rank)}, **options)
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=150)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


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
