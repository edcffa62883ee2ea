"""`taut wasserstein` as a user runs it, and the words that it takes."""

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.wgan.comparison import Contest, at_best_rate, paper_critics
from experiments.wgan.sample import EXPERIMENT
from experiments.wgan.training import WGAN, train_wgan
from taut.cli import main
from taut.wasserstein import Settings, read_source
from taut.wasserstein.critics import dense


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "images" / "deep"
    place.mkdir(parents=True)
    for i in range(12):
        Image.new("L", (8, 8), 10 * i).save(place / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "p.npz", np.random.default_rng(0).normal(size=(12, 3)))
    return tmp_path / "p.npz"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["wasserstein", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_command_prints_the_interval_and_writes_a_page(folder, tmp_path, capsys):
    moved = tmp_path / "moved.npz"
    images = read_source(folder, count=12).points
    np.savez(moved, (255 * images + 100).round().to(torch.uint8).numpy())
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, folder, moved, "--steps", 0, "--out", page)
    assert code == 0
    assert "<= W1 of the distributions (confidence 95 %, for any number of" in out
    assert "<= W1 of the samples <= 3.138" in out  # 100 / 255 on each of 64 pixels
    text = page.read_text()
    assert "ranked highest" in text
    assert text.count("data:image/png") == 4 * 8
    assert text.count("<svg") == 2
    assert "taut wasserstein" in text
    assert "{{" not in text


def test_a_long_path_leaves_room_for_the_chart(file, tmp_path, capsys):
    deep = tmp_path / ("a" * 120) / ("b" * 120)
    deep.mkdir(parents=True)
    moved = file.rename(deep / "p.npz")
    page = tmp_path / "page.html"
    assert run(capsys, moved, moved, "--steps", 0, "--out", page)[0] == 0
    assert page.read_text().count("<svg") == 2


def test_vectors_have_a_page_without_pictures(file, tmp_path, capsys):
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, file, file, "--steps", 0, "--out", page)
    assert (code, "in the limit of many" in out) == (0, True)
    assert "data:image/png" not in page.read_text()


def test_two_tables_are_compared(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(30, 2))
    for name, points in (("p.csv", x), ("q.csv", x + np.array([3.0, 4.0]))):
        np.savetxt(tmp_path / name, points, delimiter=",", header="a,b", comments="")
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, tmp_path / "p.csv", tmp_path / "q.csv", "--steps", 0, "--out", page)
    assert code == 0
    assert "<= W1 of the samples <= 5" in out


def test_words_name_points(folder, file, tmp_path):
    assert read_source(folder, count=5).points.shape == (5, 1, 8, 8)
    every = read_source(folder, count=50)
    assert every.points.flatten(1)[:, 0].mul(25.5).round().sort().values.tolist() == list(range(12))
    assert every.pixels
    assert (read_source(file).points.shape, read_source(file).pixels) == ((12, 3), False)
    first = read_source("fashion-mnist-subset", count=4, seed=1).points
    assert torch.equal(first, read_source("fashion-mnist-subset", count=4, seed=1).points)
    assert not torch.equal(first, read_source("fashion-mnist-subset", count=4, seed=2).points)
    np.savez(tmp_path / "line.npz", np.arange(5.0))
    assert read_source(tmp_path / "line.npz").points.shape == (5, 1)
    last = np.zeros((4, 9, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x=last, y=np.zeros(4))
    assert read_source(tmp_path / "a.npz").points.shape == (4, 3, 9, 8)


def test_generators_are_read_through_a_file_of_their_samples(tmp_path, capsys):
    config = WGAN(shape=(1, 8, 8), steps=1, critic_steps=1, batch_size=2, width=2, critic_width=2)
    generator = train_wgan(config, torch.rand(4, 1, 8, 8), tmp_path / "gan")
    with pytest.raises(
        ValueError, match=r"not of a generator; .* python -m experiments.wgan.sample"
    ):
        read_source(generator.path)
    file = tmp_path / "samples.npz"
    options = ["--count", "3", "--seed", "4", "--out", str(file)]
    assert EXPERIMENT.run([str(generator.path), *options]) == 0
    drawn = read_source(file)
    assert drawn.pixels
    order = drawn.points.flatten(1).sum(1).argsort(), generator.sample(3, seed=4).flatten(1).sum(1)
    exact = generator.sample(3, seed=4)[order[1].argsort()]
    assert (drawn.points[order[0]] - exact).abs().max() <= 0.5 / 255 + 1e-6
    assert EXPERIMENT.run([str(tmp_path), *options]) == 2
    assert "is no folder of a generator" in capsys.readouterr().err


def test_wrong_words_are_refused_in_a_sentence(file, tmp_path, capsys):
    code, _, err = run(capsys, file, "nothing")
    assert code == 2
    assert "nothing must be a folder of images, a file (.npz, .npy, .csv, " in err
    for words, message in (
        (("--samples", 3), "`--samples` must be at least 4; got 3."),
        (("--out", tmp_path), f"`--out` must be a file in a folder that exists; got {tmp_path}."),
        (
            ("--out", tmp_path / "no" / "page.html"),
            "`--out` must be a file in a folder that exists",
        ),
    ):
        code, out, err = run(capsys, file, file, *words)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"must hold pictures \(JPEG, PNG, .*\); there is none"):
        read_source(tmp_path / "empty")
    np.savez(tmp_path / "b.npz", a=np.zeros(4), b=np.zeros(4))
    with pytest.raises(ValueError, match="must hold points in one array, or in x, x_train"):
        read_source(tmp_path / "b.npz")
    np.savez(tmp_path / "d.npz", np.float64(3.0))
    with pytest.raises(ValueError, match=r"it holds arr_0 \(float64 of shape \(\)\)"):
        read_source(tmp_path / "d.npz")
    (tmp_path / "c.npz").write_text("")
    with pytest.raises(ValueError, match="not an npz file of plain arrays: File is not a zip file"):
        read_source(tmp_path / "c.npz")
    np.savez(tmp_path / "e.npz", np.array([{}]))
    with pytest.raises(
        ValueError, match=r"not an npz file of plain arrays: .* neither numbers nor text but object"
    ):
        read_source(tmp_path / "e.npz")
    with pytest.raises(ValueError, match="`count` must be at least 1; got 0"):
        read_source(file, count=0)


def test_each_critic_is_measured_at_its_best_rate():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    contest = Contest.between(x, x + 3)
    calls = []

    def one(rate, seed):
        calls.append((rate, seed))
        settings = Settings(steps=10, checks=1, batch_size=16, lr=rate, seed=seed)
        return contest.fit(lambda: dense((2,), width=2, depth=1), settings)

    first, second = at_best_rate(one, rates=(1e-9, 1e-1), seeds=(0, 1))
    assert calls == [(1e-9, 0), (1e-1, 0), (1e-1, 1)]
    assert (first.rate, first.seed, second.rate, second.seed) == (1e-1, 0, 1e-1, 1)
    assert first.lower != second.lower
    with pytest.raises(ValueError, match="`rates` and `seeds` must not be empty"):
        at_best_rate(one, rates=(), seeds=(0,))
    with pytest.raises(ValueError, match=r"`p` and `q` must have points of one shape; got \(2,\)"):
        Contest.between(x, torch.zeros(8, 3))
    assert list(paper_critics((1, 8, 8), width=2)) == [
        f"{method}, {kind}" for kind in ("MaxMin", "ReLU") for method in ("OSSN", "RKO", "BCOP")
    ]
