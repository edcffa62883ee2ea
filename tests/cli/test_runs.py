"""The commands that read a run folder, as a user runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import taut
from taut.cli import main
from taut.losses import MultiMargin
from taut.training import OpenedRun, Recipe, Run, train

TINY = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(1, 8, 8),
    classes=3,
    loss=MultiMargin(eps_train=0.3),
    lr=1e-2,
    epochs=2,
    batch_size=16,
    eps=("1/10", "0.5"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run on blobs of three kinds."""
    base = tmp_path_factory.mktemp("run")
    draw = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 96), ("test", 24)):
        labels = np.arange(count) % 3
        images = draw.integers(0, 60, (count, 1, 8, 8))
        for i, label in enumerate(labels):
            images[i, :, 2 * label : 2 * label + 3] += 150
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez(base / "data.npz", **arrays)
    train(TINY, base / "run", data_dir=base / "data.npz")
    return base / "run"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_certify_prints_and_keeps_the_certificate(folder, capsys):
    code, out, _ = run(capsys, "certify", folder)
    stored = json.loads((folder / "certificate.json").read_text())
    assert code == 0
    for eps in TINY.eps:
        assert f"{100 * stored['certified_accuracy'][eps]:.2f} %" in out
    assert "Conv2d" in out
    assert "Lipschitz bound in l2: 1.0" in out


def shares(out: str) -> dict[str, list[float]]:
    """Rows of the last table: a name, and a share for each eps."""
    rows = [line.split() for line in out.split("test images")[-1].splitlines() if " %" in line]
    return {" ".join(row[: -2 * 2]): [float(x) for x in row[-2 * 2 :: 2]] for row in rows}


def test_attack_stays_above_the_certificate(folder, capsys):
    for method in ("pgd", "fgsm"):
        code, out, _ = run(capsys, "attack", folder, "--method", method, "--limit", 12)
        assert code == 0
        assert "12 test images" in out
        found = shares(out)
        assert list(found) == ["clean", "certified", method]
        for certified, attacked, clean in zip(
            found["certified"], found[method], found["clean"], strict=True
        ):
            assert certified <= attacked <= clean


def test_attacks_are_kept_and_the_strongest_is_shown(folder, tmp_path, capsys, monkeypatch):
    from taut.attacks import _trials as trials
    from taut.attacks import read_attacks, strongest

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "attacks.json").unlink(missing_ok=True)
    arguments = ("attack", copy, "--method", "fgsm", "ddn", "--limit", 10, "ddn=6", "--steps")
    code, _, err = run(capsys, *arguments, 5)
    assert (code, err.count("\n")) == (2, 1)  # fgsm takes no steps
    arguments = ("attack", copy, "--method", "fgsm", "ddn", "pgd", "--limit", 10, "ddn=6")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert out.index("10 test images") < out.index("6 test images")
    kept = read_attacks(copy / "attacks.json")
    assert [(a.method, a.eps, len(a)) for a in kept] == [
        *(("fgsm", eps, 10) for eps in TINY.eps),
        ("ddn", None, 6),
        *(("pgd", eps, 10) for eps in TINY.eps),
    ]
    both = {a.method: a for a in kept if a.eps == "0.5"}
    expected = f"{100 * strongest(both, '0.5').accuracy:.2f} %"
    row = next(line for line in out.splitlines() if line.startswith("strongest"))
    assert row.rstrip().endswith(expected)
    monkeypatch.setattr(trials, "attack", None)  # nothing is run again
    monkeypatch.setattr(trials, "smallest_attack", None)
    assert run(capsys, *arguments) == (0, out, "")


def test_stopped_attacks_say_that_they_go_on(folder, tmp_path, capsys, monkeypatch):
    from taut.attacks import _trials as trials
    from taut.attacks import read_attacks

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "attacks.json").unlink(missing_ok=True)
    true, calls = trials.attack, []

    def stopping(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return true(*given)

    monkeypatch.setattr(trials, "BATCH", 4)
    monkeypatch.setattr(trials, "attack", stopping)
    arguments = ("attack", copy, "--method", "fgsm", "--limit", 8, "--eps", "0.5")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (130, "")
    assert "the batches done are kept in" in err
    assert err.count("\n") == 1
    assert [len(a) for a in read_attacks(copy / "attacks.json")] == [4]
    assert run(capsys, *arguments)[0] == 0
    assert [len(given[1]) for given in calls] == [4, 4, 4]


def test_what_only_float32_loses_has_a_row_of_its_own(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    arguments = ("attack", copy, "--method", "fgsm", "--limit", 5)
    assert "float32 only" not in run(capsys, *arguments)[1]
    file = json.loads((copy / "attacks.json").read_text())
    for attacked in file["attacks"]:
        attacked["float32_only"][0] = True
    (copy / "attacks.json").write_text(json.dumps(file))
    row = next(x for x in run(capsys, *arguments)[1].splitlines() if x.startswith("float32 only"))
    assert row.split()[2:] == ["1", "1"]


def test_broken_certificate_fails_and_names_the_image(folder, capsys, monkeypatch):
    from taut.cli import attack as module

    def boast(model, images, labels, eps):
        found = true(model, images, labels, eps=eps)
        found.radius.fill_(100.0)
        return found

    true = module.certify
    monkeypatch.setattr(module, "certify", boast)
    code, _, err = run(capsys, "attack", folder, "--eps", "5", "--steps", 20)
    assert code == 1
    assert "A certificate is broken: test image 0 is misclassified by pgd at a distance of" in err


def test_inspect_shows_every_layer(folder, capsys):
    code, out, _ = run(capsys, "inspect", folder)
    assert code == 0
    for name in ("conv1", "maxmin1", "dense2", "█"):
        assert name in out
    assert (folder / "inspection.png").stat().st_size > 1000


def test_tables_fit_a_terminal_of_80_columns(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for command in ("certify", "inspect"):
        code, out, _ = run(capsys, command, folder)
        assert code == 0
        assert "…" not in out
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out).split("Wrote")[0]
        assert max(map(len, plain.splitlines())) <= 80


@pytest.mark.parametrize("command", ["certify", "attack", "inspect"])
def test_a_gpu_that_is_not_there_is_one_sentence(command, folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run(capsys, command, folder, "--device", "cuda")
    assert code == 2
    assert "no GPU" in err
    assert err.count("\n") == 1


def test_unfinished_runs_say_so(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    rows = (copy / "metrics.csv").read_text().splitlines(keepends=True)
    (copy / "metrics.csv").write_text("".join(rows[:2]))
    assert "after 1 of 2 epochs" in run(capsys, "certify", copy)[1]
    run(capsys, "report", copy, "--limit", 3)
    assert "2, 1 of them done" in (copy / "report.html").read_text(encoding="utf-8")
    assert "epochs" not in run(capsys, "certify", folder)[1]


@pytest.mark.parametrize(
    "command",
    [
        "certify run", "attack run --limit 2 --steps 2", "report run --limit 2",
        "export run --to safetensors", "inspect run --limit 2",
    ],
)  # fmt: skip
def test_a_moved_data_set_is_found_by_every_command_that_reads_a_run(
    command, folder, tmp_path, capsys, monkeypatch
):
    shutil.copytree(folder, tmp_path / "run")
    shutil.copy(folder.parent / "data.npz", tmp_path / "moved.npz")
    origin = json.loads((tmp_path / "run" / "run.json").read_text())
    origin["data_dir"] = str(tmp_path / "gone.npz")
    (tmp_path / "run" / "run.json").write_text(json.dumps(origin))
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *command.split())
    assert (code, err.count("\n")) == (2, 1)
    assert "gone.npz not found" in err
    assert "If the data set has moved, `--data-dir` says where it is now." in err
    assert run(capsys, *command.split(), "--data-dir", "moved.npz")[0] == 0
    code, _, err = run(capsys, *command.split(), "--data-dir", "nowhere.npz")
    assert (code, err) == (2, "taut: nowhere.npz not found; give an npz file.\n")


def test_every_command_that_reads_images_takes_a_data_dir():
    import inspect
    from importlib import import_module

    from taut.cli.app import COMMANDS

    takes_run = []
    for name in set(COMMANDS) - {"train", "list", "demo", "watch"}:
        parameters = inspect.signature(vars(import_module(f"taut.cli.{name}"))[name]).parameters
        if {"run", "runs"} & parameters.keys():
            takes_run.append(name)
            assert "data_dir" in parameters, name
    assert {"certify", "attack", "report", "export", "inspect"} <= set(takes_run)


def test_several_runs_are_compared_on_one_page(folder, tmp_path, capsys):
    other = tmp_path / "other"
    train(replace(TINY, seed=1, epochs=1), other, data_dir=folder.parent / "data.npz")
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, "report", folder, other, "--limit", 9, "--output", page)
    assert (code, out) == (0, f"Wrote {page}\n")
    text = page.read_text(encoding="utf-8")
    assert "2 runs compared" in text
    assert "the first 9 test images" in text
    assert not re.search(r"https?:|<script|<link", text)
    rows = re.findall(r"<tr><td><strong>(.*?)</strong>(.*?)</tr>", text, flags=re.DOTALL)
    assert [name for name, _ in rows] == ["run", "other"]
    for path, (_, cells) in zip((folder, other), rows, strict=True):
        opened = OpenedRun.open(path, device="cpu")
        found = taut.certify(opened.model, *opened.head(9), TINY.eps)
        shares = [found.clean_accuracy, *found.certified_accuracy.values()]
        numbers = [float(x) for x in re.findall(r'(?:clean|certified)">([\d.]+)', cells)]
        assert numbers == [pytest.approx(100 * share, abs=0.051) for share in shares]
    code, _, err = run(capsys, "report", folder, folder)
    assert (code, "each given once" in err) == (2, True)


def test_report_of_a_model_of_the_zoo(tmp_path, capsys):
    images, labels = taut.data.load_test("fashion-mnist-subset")
    pixels = (255 * images[:4]).round().byte().numpy()
    np.savez(tmp_path / "t.npz", x_test=pixels, y_test=labels[:4].numpy())
    words = ("report", "zoo:fashion-mnist-small", "--output", tmp_path / "page.html")
    assert run(capsys, *words)[0] == 2
    assert run(capsys, *words, "--data", tmp_path / "t.npz", "--limit", 4)[0] == 0
    assert "all 4 test images" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_report_embeds_a_playground_that_lies_beside_it(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for there in (False, True):
        if there:
            (copy / "play.html").write_text("<p>play")
        run(capsys, "report", copy, "--limit", 2, "--data-dir", folder.parent / "data.npz")
        text = (copy / "report.html").read_text(encoding="utf-8")
        assert ('<iframe src="play.html"' in text) == there


def test_watch_ends_with_the_run(folder, tmp_path, capsys):
    code, out, _ = run(capsys, "watch", folder)
    assert code == 0
    last = out.rstrip().splitlines()[-1].split()
    row = Run.open(folder).history()[-1]
    assert last[0] == "2"
    assert last[2] == f"{100 * row['clean_accuracy']:.2f}"
    assert run(capsys, "watch", tmp_path / "none")[0] == 2
    assert run(capsys, "watch", folder, "--every", "0")[0] == 2


def test_watch_is_left_by_ctrl_c(folder, tmp_path, capsys, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()  # not finished

    def pressed(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", pressed)
    code, out, err = run(capsys, "watch", copy)
    assert (code, "2 of 2 epochs" in out) == (130, True)
    assert err == "taut: interrupted.\n"


def test_report_is_written(folder, capsys):
    code, out, _ = run(capsys, "report", folder, "--limit", 10)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert code == 0
    assert str(folder / "report.html") in out
    assert "tiny" in text
    assert "kind multi-margin" in text
    assert "--data-dir DATA_DIR" in text
    assert str(folder.parent / "data.npz") not in text


def test_demo_goes_on_with_a_finished_run(folder, capsys, monkeypatch):
    from taut.cli import demo as module

    monkeypatch.setitem(module.RECIPES, "demo", TINY)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    code, out, _ = run(capsys, "demo", "--run", folder, "--limit", 24)
    assert code == 0
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    for words in ("clean", "certified", "attacked", "1/10", "0.5", str(folder / "report.html")):
        assert words in out


def test_demo_of_no_image_trains_nothing(tmp_path, capsys):
    code, out, err = run(capsys, "demo", "--run", tmp_path / "demo", "--limit", 0)
    assert (code, out) == (2, "")
    assert "`--limit`" in err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("command", ["certify", "attack", "inspect", "report"])
def test_no_run_is_one_sentence(command, tmp_path, capsys):
    code, out, err = run(capsys, command, tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "no run folder" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("attack", "--eps", "0"), "`--eps`"),
        (("certify", "--eps", "wide"), "`--eps` .*'wide'"),
        (("attack", "--eps", "1e400"), "`--eps` .*'1e400'"),
        (("attack", "--eps", "1e-400"), "`--eps` .*'1e-400'"),
        (("attack", "--limit", "0"), "`--limit`"),
        (("attack", "--limit", "boundary=9"), "`--limit` must name a method that is run"),
        (("report", "--limit", "-3"), "`--limit`"),
        (("attack", "--steps", "0"), "`--steps`"),
        (("attack", "--method", "fgsm", "--steps", "3"), "it has none; got `--steps`"),
    ],
)
def test_wrong_values_are_one_sentence(arguments, words, folder, capsys):
    command, *options = arguments
    code, _, err = run(capsys, command, folder, *options)
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(words, err)


def test_model_without_a_number_is_refused(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tensors = load_file(copy / "model.safetensors")
    save_file(
        {k: torch.full_like(v, torch.nan) for k, v in tensors.items()}, copy / "model.safetensors"
    )
    code, _, err = run(capsys, "attack", copy)
    assert code in (1, 2)
    assert "Traceback" not in err


def test_module_runs_as_a_program(folder):
    command = [sys.executable, "-m", "taut", "certify", str(folder), "--eps", "0.2"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "70"}
    )
    assert done.returncode == 0, done.stderr
    assert "0.2" in done.stdout
    wrong = subprocess.run(
        [*command[:3], "attack", str(folder), "--method", "magic"], capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("package", ["tyro", "rich.table"])
def test_a_command_without_its_packages_names_the_extra(package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [
        name for name in sys.modules if name.startswith("taut.cli.") and "app" not in name
    ]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["certify", "--help"]) == 2
    error = capsys.readouterr().err
    assert error == f"taut: `certify` needs {package.split('.')[0]}: pip install 'taut[cli]'.\n"
