"""What tests of training runs share: how to stop one, and all that must not depend on stops."""

import signal

from safetensors.torch import load_file


def outcome(run):
    """Weights, optimiser, and metrics but the time."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history()]
    files = [load_file(run.path / name) for name in ("model.safetensors", "state.safetensors")]
    return rows, [{name: t.numpy().tobytes() for name, t in file.items()} for file in files]


def stop_after(step):
    """A report of progress that presses Ctrl-C after a step."""

    def on_progress(progress):
        if progress.step == step:
            signal.raise_signal(signal.SIGINT)

    return on_progress
