"""`taut verify`: what it prints of certificates that hold, and of others."""

import json

import pytest

import forgery
from taut.cli import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return forgery.certified("branches", tmp_path_factory.mktemp("verify"))


def cli(capsys, *arguments):
    code = main(["verify", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_what_is_proven_is_printed(saved, capsys):
    path, weights, points, *_ = saved
    bound = json.loads(path.read_text())["bound"]
    code, out, _ = cli(capsys, path, weights)
    assert code == 0
    assert f"Proven: Lipschitz bound {bound:.9g} in l2 for inputs of 2x8x8." in out
    assert "holds for the float64 run of the weights" in out
    assert "not proven: give the images with --points" in out
    assert cli(capsys, path)[:2] == (0, out)  # the weights beside it
    code, out, _ = cli(capsys, path, weights, "--points", points)
    assert code == 0
    assert "By the stand-alone verifier: " in out
    assert "radii and answers of 4 images: clean accuracy 1.0, " in out


def test_what_does_not_hold_is_refused(saved, capsys, tmp_path):
    path, weights, points, x, _ = saved
    copy = tmp_path / "c.json"
    copy.write_bytes(path.read_bytes())
    forgery.rewritten(copy, lambda c: c.update(bound=c["bound"] / 2))
    for arguments in ((copy, weights), (copy, weights, "--points", points), (weights, path)):
        code, out, err = cli(capsys, *arguments)
        assert (code, out) == (1, "")
        assert err.startswith("taut: refused: ")
        assert str(arguments[0]) in err
        assert err.count("\n") == 1
    other = forgery.points_file(tmp_path, (x + 1).numpy())
    code, _, err = cli(capsys, path, weights, "--points", other)
    assert code == 1
    assert "image 0 is another" in err


@pytest.mark.parametrize("missing", range(3))
def test_missing_files_are_wrong_use(missing, saved, capsys):
    arguments = [*saved[:2], "--points", saved[2]]
    arguments[missing + missing // 2] = "nowhere"
    code, _, err = cli(capsys, *arguments)
    assert (code, err) == (2, "taut: There is no file nowhere.\n")


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["verify", "--help"])
    assert caught.value.code == 0
    assert (
        "taut verify certificate.json certificate.safetensors --points points.npz"
        in capsys.readouterr().out
    )
