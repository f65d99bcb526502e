"""`scaletut audit`: JSON as documented, files whole or absent, the source left alone."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from scaletut.audit import Report
from scaletut.cli import INTERRUPTED, main
from scaletut.data import load

PLANTED = "zipf10:classes=equal,patterns=50,duplicates=6,blank=6,dark=6"


@pytest.fixture
def source(tmp_path):
    data = load(PLANTED, seed=2, n_train=150, n_test=40)
    path = tmp_path / "mine.npz"
    arrays = {"x_train": data.train.images, "y_train": data.train.labels}
    np.savez(path, **arrays, x_test=data.test.images, y_test=data.test.labels)
    return path


LOOKS = ["--only", "duplicates,quality"]


def test_screen_files_and_cleaned_set(source, tmp_path, capsys):
    before = source.read_bytes()
    files = [str(tmp_path / "out" / name) for name in ("a.json", "a.html", "a.npz")]
    arguments = ["audit", str(source), *LOOKS, "--json", files[0], "--html", files[1], "--out", files[2]]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert re.search(r"mine: 150 train, 40 test images, 10 classes\n", told)
    assert re.search(r"exact duplicates +6 +train \d+ = train \d+", told)
    assert re.search(r"low quality +12 +blank 6; dark 6", told)
    assert "label issues" not in told
    report = Report.from_json((tmp_path / "out" / "a.json").read_text())
    cleaned = load(files[2])
    left = json.loads((tmp_path / "out" / "a.manifest.json").read_text())["left"]
    assert len(left) >= 18
    assert f"a cleaned training set has {150 - len(left)} of 150 images" in told
    assert len(cleaned.train) == 150 - len(left)
    assert cleaned.test.digest == report.digests["test"]
    assert (tmp_path / "out" / "a.html").read_text().startswith("<!doctype html>")
    assert source.read_bytes() == before


def test_json_alone_on_the_screen(source, capsys):
    assert main(["audit", str(source), *LOOKS, "--json", "-"]) == 0
    told = capsys.readouterr()
    assert set(json.loads(told.out)["summary"]) >= {"exact_duplicates", "near_duplicates", "low_quality"}
    assert "duplicates" in told.err  # the bar goes where it does not spoil the JSON


def test_labels_from_a_file_are_judged(source, tmp_path, capsys):
    """Labels that say nothing are doubted far more than the right ones."""
    np.save(tmp_path / "new.npy", np.random.default_rng(0).integers(0, 10, 150).astype(np.int16))
    found = []
    for labels in ([], ["--labels", str(tmp_path / "new.npy")]):
        assert main(["audit", str(source), "--only", "labels", *labels, "--json", "-"]) == 0
        report = Report.from_json(capsys.readouterr().out)
        found.append([one for one in report.label_issues if one.split == "train"])
    assert len(found[1]) > len(found[0]) + 20
    given = np.load(tmp_path / "new.npy")
    assert all(given[one.index] == one.given for one in found[1])


def test_folder_findings_name_their_files(tmp_path, capsys):
    images = load("zipf10", n_train=40, n_test=1).train.images
    for number, image in enumerate(images):
        path = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "photos" / "cat" / "copy.png").write_bytes((tmp_path / "photos" / "cat" / "01.png").read_bytes())
    (tmp_path / "photos" / "dog" / "notes.txt").write_text("not an image")
    Image.new("RGB", (640, 20), "white").save(tmp_path / "photos" / "dog" / "line.png")
    assert main(["audit", f"folder:{tmp_path / 'photos'}", *LOOKS, "--json", str(tmp_path / "a.json")]) == 0
    assert "skipped files" in capsys.readouterr().out
    report = Report.from_json((tmp_path / "a.json").read_text())
    [group] = report.exact_duplicates
    assert {report.files[split][row] for split, row in group} == {"cat/01.png", "cat/copy.png"}
    odd = {one.kind: report.files[one.split][one.index] for one in report.low_quality}
    assert odd["odd size"] == "dog/line.png"
    assert odd["blank"] == "dog/line.png"
    assert set(report.digests) == {"train"}  # a folder without a test set is not divided
    assert len(report.skipped) == 1
    assert report.summary["completeness"] == pytest.approx(42 / 43)


def test_interrupted_nothing_is_lost(source, tmp_path, capsys, monkeypatch):
    old = tmp_path / "a.json"
    old.write_text("an earlier report")
    before = source.read_bytes()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("scaletut.audit.report.low_quality", interrupt)
    assert main(["audit", str(source), *LOOKS, "--json", str(old), "--out", str(tmp_path / "c.npz")]) == INTERRUPTED
    assert "interrupted" in capsys.readouterr().err
    assert old.read_text() == "an earlier report"
    assert source.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.json", "mine.npz"]


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["audit", "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.count("scaletut audit ") >= 4


def test_chapters_take_what_the_audit_takes():
    from scaletut.chapters.schemas import known_source

    for source in ("", "cifar10", "zipf10:blank=3", "folder:photos", "npz:mine", "mine.npz", "a/b:c.npz"):
        assert known_source(source) == source
    for source in ("npz:", "mine.npy", "folder:", "zipf10:blnk=3"):
        with pytest.raises(ValueError):
            known_source(source)
