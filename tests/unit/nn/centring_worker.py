"""Run in each of two processes by test_centering.py: a batch in uneven parts, and one part."""

import gc
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import taut

LAYERS = {"centre": taut.nn.BatchCentering, "norm": taut.nn.BatchLipNorm}
CUTS = (5, 8)  # of the first and of the second batch: the second process has 3 samples, then none


def trained(kind, batches, wrap):
    """A layer after some steps: its state, outputs, and gradients of its inputs."""
    torch.manual_seed(0)
    layer = wrap(torch.nn.Sequential(torch.nn.Linear(3, 3), LAYERS[kind](3)).double())
    results = {}
    for step, batch in enumerate(batches):
        x = batch.clone().requires_grad_()
        y = layer(x)
        (y.sin().sum() + y.pow(3).sum()).backward()
        results |= {f"{step}.y": y.detach(), f"{step}.x": x.grad}
    plain = getattr(layer, "module", layer)
    results |= {name: t.double() for name, t in plain.state_dict().items()}
    results |= {f"grad.{name}": p.grad for name, p in plain.named_parameters()}
    return {name: t.contiguous() for name, t in results.items()}


def main(folder):
    distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    batches = load_file(folder / "batches.safetensors").values()
    parts = [x[:cut] if rank == 0 else x[cut:] for x, cut in zip(batches, CUTS, strict=True)]
    for kind in LAYERS:
        found = trained(kind, parts, DistributedDataParallel)
        save_file(found, folder / f"{kind}-{rank}.safetensors")
    distributed.barrier()  # so that none leaves while another still speaks to it
    distributed.destroy_process_group()
    gc.collect()  # wrapped layers, in cycles, hold it too; its threads must not outlive Python


if __name__ == "__main__":
    main(Path(sys.argv[1]))
