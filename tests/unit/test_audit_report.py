"""The report: what is found stands in it, survives JSON, cleans the set and makes a page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from scaletut.audit import Report, audit, removals, score, write_cleaned
from scaletut.audit.report import CHECKS, LabelIssue, LowQualityImage, NearDuplicate
from scaletut.audit.scores import wilson
from scaletut.data import ImageSet, TrainTest, load
from scaletut.errors import DataError, ParameterError

OPTIONS = "classes=equal,patterns=50,noise=0.1,duplicates=12,near_duplicates=10,blurred=8,blank=8,dark=8"
LOOKS = ("duplicates", "quality")


@pytest.fixture(scope="module")
def data() -> TrainTest:
    """zipf10 with planted faults, and three training images that are test images too, one of them mirrored."""
    made = load(f"zipf10:{OPTIONS}", seed=11, n_train=450, n_test=60)
    images = made.test.images.copy()
    spoilt = made.train.truth.blurred | made.train.truth.blank | made.train.truth.dark
    spoilt |= (made.train.truth.duplicate_of >= 0) | (made.train.truth.near_duplicate_of >= 0)
    images[5:8] = made.train.images[np.flatnonzero(~spoilt)[:3]]
    images[7] = images[7][:, ::-1]
    return replace(made, test=replace(made.test, images=images))


@pytest.fixture(scope="module")
def report(data) -> Report:
    return audit(data)


def test_documented_keys_and_places(report):
    plain = json.loads(report.to_json())
    wanted = {"exact_duplicates", "near_duplicates", "low_quality", "label_issues", "summary", "thresholds"}
    assert wanted <= set(plain)
    assert plain["near_duplicates"][0]["first"][0] in ("train", "test")
    assert isinstance(plain["near_duplicates"][0]["first"][1], int)
    assert set(plain["low_quality"][0]) == {"index", "split", "kind", "score"}
    assert set(plain["label_issues"][0]) == {"index", "split", "given", "suggested", "score"}
    assert all(one["reason"] for one in plain["thresholds"].values())
    assert {"label_issues.train", "label_issues.test", "near_duplicates", "blurred"} <= set(plain["thresholds"])


def test_best_come_first(report):
    for findings in (report.near_duplicates, report.label_issues):
        scores = [one.score for one in findings]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) > 2


def test_json_there_and_back(report):
    assert Report.from_json(report.to_json()) == report


def test_summary_counts_what_the_report_lists(report):
    facts = report.summary
    assert facts["near_duplicates"] == len(report.near_duplicates)
    assert facts["label_issues"] == len(report.label_issues)
    assert facts["exact_duplicates"] == sum(len(group) - 1 for group in report.exact_duplicates)
    assert facts["low_quality.blank"] == 8
    assert facts["completeness"] == 1
    assert 0 < facts["label_accuracy"] < 1
    assert (facts["images.train"], facts["images.test"]) == (450, 60)


def test_marks_against_the_truth(report, data):
    marks = {one.detector: one for one in score(report, data)}
    assert marks["exact_duplicates"].planted == 12
    for name in ("exact_duplicates", "blank", "dark", "blurred"):
        assert (marks[name].precision, marks[name].recall) == (1, 1), marks[name]
    assert marks["label_issues"].precision > 0.6  # 1 in 10 by chance
    assert marks["near_duplicates"].planted == 10
    low, high = marks["exact_duplicates"].recall_interval
    assert low == pytest.approx(12 / (12 + 1.96**2), abs=1e-3)
    assert high == 1


def test_marks_would_see_a_bad_report(report, data):
    wrong = NearDuplicate(("train", 0), ("train", 1), 1.0)
    spoilt = replace(report, near_duplicates=(wrong,), low_quality=(), exact_duplicates=())
    marks = {one.detector: one for one in score(spoilt, data)}
    assert (marks["near_duplicates"].precision, marks["near_duplicates"].recall) == (0, 0)
    assert marks["near_duplicates.shift"].precision == 0  # a wrong pair counts against every kind
    assert (marks["blank"].precision, marks["blank"].recall) == (1, 0)
    assert marks["exact_duplicates"].recall == 0


def test_wilson_as_published():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0, 1)


def test_clean_leaves_no_family_across_the_splits(report, data):
    cleaned = report.clean(data)
    assert cleaned.test is data.test
    left = {one.index: one.reasons for one in removals(report)}
    assert len(cleaned.train) == 450 - len(left)
    content = {image.tobytes() for image in cleaned.train.images}
    assert len(content) == len(cleaned.train)
    assert not content & {image.tobytes() for image in data.test.images}
    truth = cleaned.train.truth
    assert not (truth.blank | truth.dark | truth.blurred).any()
    assert (cleaned.train.labels == truth.clean_labels).mean() > (
        data.train.labels == data.train.truth.clean_labels
    ).mean()
    assert all(reasons for reasons in left.values())
    assert any("of test 5" in reason for reasons in left.values() for reason in reasons)


def test_clean_of_one_kind_of_fault_alone(report, data):
    only = removals(report, ["low_quality"])
    assert {reason for one in only for reason in one.reasons} == {"blank", "dark", "blurred"}
    assert len(report.clean(data, faults=["low_quality"]).train) == 450 - len(only)
    assert removals(report, []) == ()
    with pytest.raises(ParameterError, match="blury"):
        removals(report, ["blury"])


def toy_report(**findings) -> Report:
    fields = dict.fromkeys(("exact_duplicates", "near_duplicates", "low_quality", "label_issues"), ())
    return Report(
        "toy", "2026-01-01", {}, ("a", "b"), {"train": (5, 5)}, summary={}, thresholds={}, **fields | findings
    )


def test_of_a_family_the_best_stays():
    family = (("train", 2), ("train", 4), ("train", 6))
    report = toy_report(exact_duplicates=(family,), low_quality=(LowQualityImage(2, "train", "dark", 2.0),))
    assert {one.index: one.reasons for one in removals(report)} == {
        2: ("dark", "exact duplicate of train 4"),
        6: ("exact duplicate of train 4",),
    }


def test_chains_of_copies_are_one_family_and_the_test_image_stays():
    pairs = [(("train", 1), ("train", 3)), (("train", 3), ("test", 0)), (("test", 0), ("test", 1))]
    report = toy_report(near_duplicates=tuple(NearDuplicate(*pair, 1.0) for pair in pairs))
    assert {one.index: one.reasons for one in removals(report)} == {
        1: ("near duplicate of test 0",),
        3: ("near duplicate of test 0",),
    }


def test_test_images_never_leave():
    poor = LowQualityImage(3, "test", "dark", 2.0)
    issue = LabelIssue(4, "test", 0, 1, 0.9)
    assert removals(toy_report(low_quality=(poor,), label_issues=(issue,))) == ()


def test_cleaned_set_and_manifest_are_written(report, data, tmp_path):
    path, beside = write_cleaned(report, data, tmp_path / "new" / "cleaned.npz")
    again = load(str(path))
    cleaned = report.clean(data)
    assert again.train.digest == cleaned.train.digest
    assert again.test.digest == data.test.digest
    written = json.loads(beside.read_text())
    assert written["digests_after"] == {"train": again.train.digest, "test": again.test.digest}
    assert written["digests_before"] == {"train": data.train.digest, "test": data.test.digest}
    assert [one["index"] for one in written["left"]] == [one.index for one in removals(report)]
    assert written["images_before"]["train"] - len(written["left"]) == written["images_after"]["train"]
    assert sorted(one.name for one in path.parent.iterdir()) == ["cleaned.manifest.json", "cleaned.npz"]
    with pytest.raises(ParameterError, match=r"cleaned\.npz"):
        write_cleaned(report, data, tmp_path / "cleaned.csv")


def test_other_data_than_the_audited_are_refused(report, data):
    other = replace(data, train=replace(data.train, labels=np.roll(data.train.labels, 1)))
    for use in (report.clean, report.html, lambda one: score(report, one)):
        with pytest.raises(DataError, match="about other images or labels") as caught:
            use(other)
        assert "train" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="other images"):
        report.clean(data.train)


def test_a_class_is_not_cleaned_away():
    images = np.random.default_rng(0).integers(0, 256, (30, 12, 12, 3), np.uint8)
    images[29] = images[0]
    data = ImageSet(images, np.r_[np.zeros(29, np.int64), 1], ("a", "b"), "lonely")
    with pytest.raises(DataError, match="no training image of b"):
        audit(data, checks=["duplicates"]).clean(data)


def test_one_image_set_counts_as_train(data):
    report = audit(data.train, checks=["quality"])
    assert set(report.digests) == {"train"}
    assert isinstance(report.clean(data.train), ImageSet)
    assert report.label_issues == ()
    assert "label_issues" not in report.summary


def test_training_labels_are_judged_without_the_test_set(data, monkeypatch):
    """And copies of an image are never on both sides of a fold."""
    asked = []

    def spy(images, labels, classes, *, folds, groups, seed, progress):
        asked.append((images, labels, groups))
        return np.full((len(images), classes), 1 / classes)

    monkeypatch.setattr("scaletut.audit.report.out_of_fold", spy)
    audit(data, checks=["duplicates", "labels"])
    assert [images is part.images for (images, *_), part in zip(asked, (data.train, data.test), strict=True)] == [
        True
    ] * 2
    assert [labels is part.labels for (_, labels, _), part in zip(asked, (data.train, data.test), strict=True)] == [
        True
    ] * 2
    groups, truth = asked[0][2], data.train.truth
    copies = np.flatnonzero(truth.duplicate_of >= 0)
    assert len(groups) == len(data.train)
    assert (groups[copies] == groups[truth.duplicate_of[copies]]).all()


def test_labels_are_judged_only_where_there_is_something_to_judge():
    images = np.random.default_rng(0).integers(0, 256, (30, 12, 12, 3), np.uint8)
    one_class = audit(ImageSet(images, np.zeros(30, np.int64), ("a",), "one"), checks=["labels"])
    one_image = audit(ImageSet(images[:1], np.zeros(1, np.int64), ("a", "b"), "one"))
    for report in (one_class, one_image):
        assert report.label_issues == ()
        assert report.thresholds["label_issues.train"].value is None
        assert Report.from_json(report.to_json()) == report
        assert report.html()


def test_nothing_is_changed_and_seeds_decide(data):
    data = TrainTest(data.train.take(np.arange(60)), data.test.take(np.arange(20)))
    before = (data.train.digest, data.test.digest, data.train.images.tobytes())
    first, second = (audit(data, checks=LOOKS, seed=3) for _ in range(2))
    assert replace(first, created="") == replace(second, created="")
    assert (data.train.digest, data.test.digest, data.train.images.tobytes()) == before


def test_progress_names_the_check_and_reaches_the_end(data):
    told = []
    small = TrainTest(data.train.take(np.arange(60)), data.test.take(np.arange(20)))
    audit(small, checks=LOOKS, progress=lambda what, share: told.append((what, share)))
    assert list(dict.fromkeys(what for what, _ in told)) == ["duplicates", "quality"]
    assert told[-1] == ("quality", 1)
    assert all(0 <= share <= 1 for _, share in told)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "name": "x"}',
        "null",
        '{"format": 1, "files": 3}',
    ],
)
def test_other_json_is_refused_in_one_line(text):
    with pytest.raises(DataError, match="not the JSON of an audit") as caught:
        Report.from_json(text)
    assert "\n" not in str(caught.value)


def test_unknown_check_is_refused(data):
    with pytest.raises(ParameterError, match=", ".join(CHECKS)):
        audit(data, checks=["blur"])


# --- the data sheet --------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images, self.links, self.open, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.images.append(values)
        self.links += [values[name] for name in ("src", "href") if name in values]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)


def test_data_sheet_is_whole_and_asks_nothing_of_the_network(report, data):
    text = report.html(data)
    page = Page(text)
    assert page.open == []
    assert page.images
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert "@import" not in text
    assert "url(" not in text
    assert "<script" not in text
    assert all(re.search(r"(train|test) \d+", image["alt"]) for image in page.images)
    assert "prefers-color-scheme: dark" in text
    words = " ".join(page.text)
    for section in ("Exact duplicates", "Near duplicates", "Blank", "Doubtful labels", "Thresholds", "Digest"):
        assert section in words
    assert data.train.digest in words
    assert report.thresholds["blurred"].reason in words
    for name in data.train.class_names:
        assert name in words


def test_data_sheet_shows_the_very_images(report, data):
    import base64
    import io

    from PIL import Image

    place = (report.low_quality[0].split, report.low_quality[0].index)
    page = Page(report.html(data))
    shown = next(one for one in page.images if one["alt"].startswith(f"Image {place[0]} {place[1]}, blank"))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["src"].partition(",")[2]))))
    np.testing.assert_array_equal(pixels, getattr(data, place[0]).images[place[1]])


def test_data_sheet_without_pictures_and_with_odd_names():
    report = replace(
        toy_report(label_issues=(LabelIssue(1, "train", 0, 1, 0.5),)),
        name="<script>alert(1)</script>",
        class_names=('a"&', "<b>"),
        skipped=(("x<y.png", "no & image"),),
        files={"train": {1: "cat/<1>.png"}},
    )
    text = report.html()
    page = Page(text)
    assert page.images == []
    assert "<script" not in text
    words = "".join(page.text)
    for told in ('a"&', "<b>", "x<y.png", "no & image", "cat/<1>.png"):
        assert told in words
