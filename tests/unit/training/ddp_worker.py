"""Run in each of two processes by test_ddp.py, and written down by each: what happened."""

import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import taut
from taut.data import Augment
from taut.losses import EMMA, HingeKRMulticlass
from taut.parametrizations import _svcm, methods
from taut.training import Launch, OtherProcessFailed, Recipe, TrainingInterrupted, read_recipe
from taut.training import _loop as loop

RANK = int(os.environ.get("RANK", 0))
# ECO takes images of which its kernel size divides the size.
METHODS = [n for n, cls in methods().items() if not cls.matrices_only and n != "ECO"]

SETTINGS = {
    "parametrization": taut.AOL,
    "accumulate": 3,
    "warmup": 1.5,
    "weight_decay": 0.3,
    "clip_norm": 0.05,
    "ema": 0.9,
    "channels_last": True,
    "augment": Augment(crop_padding=1, resized_crop=0.3, randaugment=2),
}


MIXED = Augment(crop_padding=1, cutout=2, mixup=0.4)


def trainer(folder):
    def train(name, launch=Launch(), **changes):  # noqa: B008 (frozen)
        recipe = replace(read_recipe(folder / "tiny.json"), **changes)
        place = {"data_dir": folder / "data.npz", "device": "cpu", "launch": launch}
        return loop.train(recipe, folder / name, **place)

    return train


def digest(model):
    state = b"".join(t.numpy().tobytes() for t in model.state_dict().values())
    return hashlib.sha256(state).hexdigest()


def patched(name, value, run, *errors, owner=loop):
    """The error that a run ends with while a function of the loop is another one."""
    before = getattr(owner, name)
    setattr(owner, name, value(before))
    try:
        run()
    except errors as error:
        return [type(error).__name__, str(error)]
    finally:
        setattr(owner, name, before)


def interrupted_in_second_process(after_step):
    def stop(model, step, **options):
        if RANK == 1 and step == 3:
            signal.raise_signal(signal.SIGTERM)
        after_step(model, step, **options)

    return stop


def failing_in_first_process(save):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device", "state.safetensors")

    return fail


def drifting_in_second_process(after_step):
    def drift(model, step, **options):
        if RANK == 1:
            next(model.parameters()).data.view(-1)[0] += 1e-6
        after_step(model, step, **options)

    return drift


def keeping(models):
    def value(build):
        def kept(recipe):
            models.append(build(recipe))
            return models[-1]

        return kept

    return value


def same(function):
    return function


def faults(train):
    """How each run that goes wrong ends here."""
    return {
        "interrupted": patched(
            "after_step",
            interrupted_in_second_process,
            lambda: train("stopped"),
            TrainingInterrupted,
        ),
        "full disk": patched(
            "save_checkpoint",
            failing_in_first_process,
            lambda: train("full"),
            OSError,
            OtherProcessFailed,
        ),
        "drift": patched(
            "after_step", drifting_in_second_process, lambda: train("drift"), RuntimeError
        ),
        "other recipe": patched(
            "after_step", same, lambda: train("stopped", lr=0.5), ValueError, OtherProcessFailed
        ),
    }


def weights(train):
    """Digests of the weights that each method comes to, hooks and retractions included."""
    # Projections of SVCM within these short runs, in no more rounds than needed.
    update, _svcm._NUMERICAL_EPS = taut.SVCM.update_, 0.05
    taut.SVCM.update_ = lambda self, step: update(self, 50 * step)
    digests = {}
    for method in METHODS:
        models = []
        run = partial(train, method, parametrization=methods()[method], epochs=1, batch_size=10)
        patched("build_model", keeping(models), run, owner=Recipe)
        digests[method] = digest(models[-1])  # the one that is trained, after the one that is tried
    return digests


def main(folder):
    train = trainer(folder)
    train("resumed-by-two")
    train("shared", Launch(share_weights=True))
    train("two-sample", loss=HingeKRMulticlass(alpha=5.0), batch_size=13)
    said = faults(train)
    train("bf16", precision="bf16-mixed")
    train("settings", **SETTINGS)
    train("stiefel", optimizer="stiefel-adam")
    train("mixed", loss=EMMA(), augment=MIXED)
    train("shared rows", Launch(share_weights=True), loss=EMMA())
    train("followed", loss=EMMA(), parametrization=taut.LiRes, accumulate=2)
    said["weights"] = weights(train)
    (folder / f"said-{RANK}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
