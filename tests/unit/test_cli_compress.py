"""`scaletut compress` and `scaletut frontier` as a user meets them: exit codes, one-line errors, files, tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scaletut import cli
from scaletut.compress import Program, driver
from scaletut.data import load
from scaletut.models import build, load_weights, read_manifest, save_weights
from scaletut.records import find_records
from scaletut.train import Recipe, fit

QUICKLY = ["--images", "320", "--seconds", "0.05"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    rest, _ = load("zipf10").train.split(200, seed=0)
    train = rest.split(480, seed=0)[1]
    recipe = Recipe(epochs=10, batch_size=32, lr=0.1, precision="fp32")
    result = fit(build("resnet8", width=0.5, seed=0), train, recipe, 0)
    manifest = {"data": "zipf10", "hold_out": 200, "normalisation": result.normalisation, "petaflop": 1e-3}
    return save_weights(result.model, tmp_path_factory.mktemp("weights") / "net.safetensors", manifest)


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory) -> tuple[Path, dict]:
    """One whole run: its folder, and what it wrote as JSON. The first export of it is kept as `whole.onnx`."""
    folder = tmp_path_factory.mktemp("made")
    export = driver.export

    def kept(net, path: Path, **options) -> Program:
        program = export(net, path, **options)
        if not (folder / "whole.onnx").exists():
            shutil.copy(path, folder / "whole.onnx")
        return program

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(driver, "export", kept)
    code = cli.main(
        ["compress", str(checkpoint), "--recipe", "prune=0.3,int8", "--out", str(folder / "small.onnx"), *QUICKLY,
         "--records", str(folder / "records"), "--json", str(folder / "told.json"), "--max-drop", "90"]
    )  # fmt: skip
    monkeypatch.undo()
    assert code == 0
    return folder, json.loads((folder / "told.json").read_text())


@pytest.fixture
def exported_once(made, checkpoint: Path, monkeypatch) -> None:
    """The program of the checkpoint is made once for all that need no other: an export takes seconds."""

    def copied(net, path: Path, **_) -> Program:
        shutil.copy(made[0] / "whole.onnx", path)
        return Program.load(path)

    monkeypatch.setattr(driver, "export", copied)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def error_of(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scaletut: error: ")]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("scaletut: error: ")


def test_a_recipe_leaves_a_program_its_weights_and_a_record_a_point(made) -> None:
    folder, told = made
    program = Program.load(folder / "small.onnx")
    assert program.manifest["precision"] == "int8 static"
    assert [step["step"] for step in program.manifest["steps"][:2]] == ["prune_channels", "finetune"]
    assert [stage["name"] for stage in told["stages"]] == ["eager", "onnx", "prune=0.3", "finetune=1", "int8"]
    net = load_weights(folder / "small.safetensors")
    assert sum(p.numel() for p in net.parameters()) == told["stages"][-1]["parameters"]
    records = find_records(folder / "records")
    assert {record.experiment for record in records} == {
        f"compress.resnet8_w0p5.{name}" for name in ("eager", "onnx", "prune0p3_finetune1", "prune0p3_finetune1_int8")
    }
    last = told["stages"][-1]["values"]
    assert last["bytes"]["value"] == program.bytes / 1e3
    assert last["petaflop"]["value"] > 1e-3  # what the network had behind it, and the training after the cut
    assert told["scored"] == 200
    assert not told["test_set"]
    assert not [note for note in told["notes"] if "held out" in note]


def test_the_compressed_weights_can_be_compressed_again(made, checkpoint: Path) -> None:
    manifest = read_manifest(made[0] / "small.safetensors")
    assert {"data", "hold_out", "normalisation", "petaflop"} <= set(manifest)
    assert manifest["hold_out"] == read_manifest(checkpoint)["hold_out"]


def test_the_frontier_of_what_was_recorded(made, capsys, tmp_path) -> None:
    records = str(made[0] / "records")
    assert cli.main(["frontier", records, "--x", "bytes", "--plot", "front.svg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("resnet8_w0p5: ")]) == 4
    assert "points are on the front by bytes" in lines[-1]
    assert "<svg" in (tmp_path / "front.svg").read_text()
    assert cli.main(["frontier", records, "--x", "bytes", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    sizes = {point["name"]: point["values"]["bytes"]["value"] for point in told["points"]}
    assert told["front"][0] == min(sizes, key=sizes.get) == "resnet8_w0p5.prune0p3_finetune1_int8"


@pytest.mark.usefixtures("exported_once")
def test_a_table_and_a_missed_target(checkpoint: Path, capsys) -> None:
    options = ["--recipe", "int8", "--target-latency", "5000x", "--target-bytes", "1kB", *QUICKLY]
    assert cli.main(["compress", str(checkpoint), *options]) == 1
    captured = capsys.readouterr()
    table = captured.out.splitlines()
    assert [line.split()[0] for line in table[:4]] == ["step", "eager", "onnx", "int8"]
    assert len({len(line) for line in table[1:4]}) == 1
    (error,) = (line for line in captured.err.splitlines() if line.startswith("scaletut: error"))
    assert "latency" in error
    assert "bytes" in error
    assert "times the target" in error
    assert Path("_build/compress/net-int8.onnx").is_file()  # what was made is there, though it misses


@pytest.mark.usefixtures("exported_once")
def test_a_search_finds_goes_on_and_scores_its_best_on_the_test_set(checkpoint: Path, capsys) -> None:
    options = ["compress", str(checkpoint), "--target-bytes", "1.5x", "--max-drop", "20", "--trials", "1", *QUICKLY]
    assert cli.main([*options, "--json", "first.json"]) == 0
    first = json.loads(Path("first.json").read_text())
    assert first["best"]["recipe"] == "int8"
    assert Program.load(first["program"]).manifest["precision"] == "int8 static"
    assert first["final"] is None
    capsys.readouterr()
    assert cli.main([*options, "--final", "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["trials"] == first["trials"]
    assert again["best"] == first["best"]
    assert 0 < again["final"]["accuracy"]["value"] <= 100
    assert {record.experiment for record in find_records("_build/compress/records")} >= {"compress.resnet8_w0p5.int8"}


@pytest.mark.usefixtures("exported_once")
def test_a_search_out_of_reach_says_what_comes_nearest(checkpoint: Path, capsys) -> None:
    options = ["--target-bytes", "1000x", "--trials", "1", "--study", "s.db", *QUICKLY]
    assert cli.main(["compress", str(checkpoint), *options]) == 1
    error = error_of(capsys)
    assert "none of 1 trials" in error
    assert "nearest is int8" in error
    assert "times the target" in error


REFUSED = [
    (["--recipe", "prnue=0.5"], "did you mean 'prune'"),
    (["--recipe", "prune=2"], "out of range"),
    (["--recipe", "int8,prune=0.5"], "put int8 last"),
    ([], "nothing to do"),
    (["--recipe", "int8", "--study", "s.db"], "--study"),
    (["--recipe", "int8", "--target-latency", "3"], "'3' is not a latency"),
    (["--recipe", "int8", "--target-bytes", "small"], "'small' is not a size"),
    (["--recipe", "int8", "--max-drop", "-1"], "max_drop"),
    (["--recipe", "int8", "--out", "small.pt"], "ends in .onnx"),
    (["--recipe", "int8", "--name", "My Net"], "--name"),
    (["--recipe", "int8", "--hold-out", "4000"], "held out"),
    (["--recipe", "int8", "--images", "4000"], "--images"),
    (["--recipe", "int8", "--data", "zipf11"], "unknown data source"),
    (["--recipe", "prune=0.3", "--epochs", "-1"], "epochs"),
    (["--recipe", "int8", "--seed", "-1"], "seed"),
    (["--recipe", "int8", "--seconds", "0"], "seconds"),
]


@pytest.mark.parametrize(("options", "why"), REFUSED, ids=[" ".join(options) or "none" for options, _ in REFUSED])
def test_what_is_refused_costs_one_line(checkpoint: Path, capsys, options: list[str], why: str) -> None:
    assert cli.main(["compress", str(checkpoint), *options]) == 2
    assert why in error_of(capsys)


def test_files_that_are_none(capsys, tmp_path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"no weights")
    for name in ("no.safetensors", "absent.safetensors"):
        assert cli.main(["compress", name, "--recipe", "int8"]) == 2
        assert name in error_of(capsys)
    (tmp_path / "empty").mkdir()
    for folder, why in (("absent", "no folder"), ("empty", "no points")):
        assert cli.main(["frontier", folder]) == 2
        assert why in error_of(capsys)


def test_the_weights_are_never_written_over_the_checkpoint(checkpoint: Path, capsys) -> None:
    before = checkpoint.read_bytes()
    assert (
        cli.main(["compress", str(checkpoint), "--recipe", "int8", "--out", str(checkpoint.with_suffix(".onnx"))]) == 2
    )
    assert "over" in error_of(capsys)
    assert checkpoint.read_bytes() == before


def test_train_keeps_what_compress_needs(capsys) -> None:
    options = ["--data", "zipf10", "--hold-out", "100", "--epochs", "0.05", "--out", "records"]
    assert cli.main(["train", "resnet20", *options, "--save", "net.safetensors"]) == 0
    manifest = read_manifest("net.safetensors")
    assert (manifest["data"], manifest["hold_out"], manifest["seed"]) == ("zipf10", 100, 0)
    assert manifest["petaflop"] > 0
    assert len(manifest["normalisation"][0]) == 3
    capsys.readouterr()
    assert cli.main(["train", "resnet20", *options, "--seed", "0", "--seed", "1", "--save", "net.safetensors"]) == 2
    assert "one network" in error_of(capsys)
