"""`taut drift` as a user runs it: files of any kind, exit codes, JSON, refusals."""

import json

import numpy as np
import pytest

from taut.cli import main


@pytest.fixture
def tables(tmp_path):
    """A reference, points of the same distribution and shifted ones, as csv files."""
    random = np.random.default_rng(0)
    for name, shift in (("ref", 0.0), ("calm", 0.0), ("moved", 3.0)):
        points = random.normal(size=(60, 2)) + np.array([0.0, shift])
        write(tmp_path / f"{name}.csv", points)
    return tmp_path


def write(path, points, names="age,income"):
    np.savetxt(path, points, delimiter=",", header=names, comments="", fmt="%.17g")


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["drift", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_drift_is_printed_and_fails_only_if_asked(tables, capsys):
    words = (tables / "ref.csv", tables / "moved.csv", "--steps", 0)
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert out.startswith("drift: p-value 0.001 <= level 0.05\n")
    assert "features that carry it: income (" in out
    code, out, err = run(capsys, *words, "--fail-on-drift")
    assert (code, out.startswith("drift: ")) == (1, True)
    assert err == "taut: drift at level 0.05: p-value 0.001.\n"
    code, out, err = run(capsys, tables / "ref.csv", tables / "calm.csv", "--fail-on-drift")
    assert (code, out.startswith("no drift found: "), err) == (0, True, "")


def test_json_and_a_figure_are_written(tables, capsys):
    figure = tables / "drift.png"
    words = ("--steps", 0, "--json", "--standardise", "--level", 0.01, "--figure", figure)
    code, out, _ = run(capsys, tables / "ref.csv", tables / "moved.csv", *words)
    content = json.loads(out)
    assert code == 0
    assert content["features"] == ["age", "income"]
    assert (content["alarm"], content["level"], content["standardised"]) == (True, 0.01, True)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_files_of_every_kind_give_the_same(tables, capsys):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for name in ("ref", "moved"):
        points = np.loadtxt(tables / f"{name}.csv", delimiter=",", skiprows=1)
        frame = pandas.DataFrame(points, columns=["age", "income"])
        frame.to_parquet(tables / f"{name}.parquet")
        np.save(tables / f"{name}.npy", frame.to_numpy())
        np.savez(tables / f"{name}.npz", frame.to_numpy())
    results = []
    for kind in ("csv", "parquet", "npy", "npz"):
        files = (tables / f"{name}.{kind}" for name in ("ref", "moved"))
        code, out, _ = run(capsys, *files, "--steps", 0, "--json")
        assert code == 0
        results.append(json.loads(out))
        assert results[-1].pop("features") == (None if "n" in kind else ["age", "income"])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("age,name\n1,2\n3,4\n5,6\n7,8\n", (), "`reference` and `new` must have the same columns"),
        ("age,income\n1,cat\n", (), "must hold one point a line, as numbers: could not convert"),
        ("age,income\n1,nan\n3,4\n5,6\n7,8\n", (), "`new` must be finite; it holds NaN"),
        ("age\n1\n2\n3\n4\n", (), "`reference` and `new` must have the same columns"),
        (
            "1\n2\n3\n4\n",
            (),
            "`reference` and `new` must have points of one shape; got (2,) and (1",
        ),
        (None, ("--level", 2), "`--level` must be between 0 and 1; got 2.0"),
        (None, ("--samples", 3), "`--samples` must be at least 4; got 3"),
        (None, ("--figure", "no/such/a.png"), "`--figure` must be a file in a folder that exists"),
        (None, ("--standardize",), "has no option --standardize. Did you mean --standardise?"),
    ],
)
def test_wrong_use_is_one_sentence(text, words, message, tables, capsys):
    new = tables / "new.csv"
    new.write_text(text or "age,income\n1,2\n3,4\n5,6\n7,8\n")
    code, out, err = run(capsys, tables / "ref.csv", new, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
