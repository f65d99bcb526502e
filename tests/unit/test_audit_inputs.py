"""More than two hundred inputs as they come: each is read, skipped and counted, or refused in one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaletut.cli import REFUSED, main
from scaletut.data.folder import read_folder
from scaletut.data.sources import load_whole

FORMATS = ("png", "jpeg", "gif", "bmp", "webp", "tiff")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 50, 3), np.uint8)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def folder_with(root: Path, name: str, content: bytes) -> Path:
    """Two classes of two good images each, and one more file among the cats."""
    for number, kind in enumerate(["cat", "cat", "dog", "dog"]):
        (root / kind).mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (50 * number, 90, 10)).save(root / kind / f"{number}.png")
    (root / "cat" / name).write_bytes(content)
    return root


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The reason for which a command is refused; it must be one line."""
    assert main(arguments) == REFUSED
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("scaletut: error: ")
    assert told.err.count("\n") == 1, told.err
    return told.err


# --- files in a folder that are left out and counted -----------------------------------


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that only claims its size: a decompression bomb."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(RNG.integers(0, 256, (12, 12, 3), np.uint8)) for _ in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def float_tiff(value: float) -> bytes:
    return encoded(Image.fromarray(np.full((12, 12), value, np.float32)), "tiff")


WHOLE = {kind: encoded(Image.fromarray(PIXELS), kind) for kind in FORMATS}
BAD_FILES = {
    **{
        f"{kind} cut at {share:.0%}": WHOLE[kind][: int(share * len(WHOLE[kind]))]
        for kind in FORMATS
        for share in (0.01, 0.1, 0.3, 0.6)
    },
    "empty": b"",
    "one byte": b"\x00",
    "zeros": bytes(5000),
    "random bytes": RNG.bytes(5000),
    "text": b"not an image\n",
    "utf-16 text": "ö".encode("utf-16") * 99,
    "html": b"<!doctype html><title>404</title>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "json": b'{"a": 1}',
    "csv": b"a,b\n1,2\n",
    "pdf": b"%PDF-1.7\n%%EOF",
    "zip": b"PK\x05\x06" + bytes(18),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(20),
    "mp4": b"\x00\x00\x00\x18ftypmp42" + bytes(64),
    "elf": b"\x7fELF" + bytes(64),
    "npy": b"\x93NUMPY\x01\x00",
    "pickle": b"\x80\x04K\x01.",
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "PNG signature alone": b"\x89PNG\r\n\x1a\n",
    "JPEG start alone": b"\xff\xd8\xff\xe0",
    "PNG with a broken header": WHOLE["png"][:16] + b"\xff" * 8 + WHOLE["png"][24:],
    "PNG with broken pixels": WHOLE["png"][:60] + bytes(200) + WHOLE["png"][260:],
    "PNG of no width": png_of_size(0, 9),
    "bomb of 10 gigapixels": png_of_size(100_000, 100_000),
    "bomb of 100 megapixels": png_of_size(10_000, 10_000),
    "bomb in one bit a pixel": encoded(Image.new("1", (15_000, 15_000)), "png"),
    "animated gif": animation("gif"),
    "animated webp": animation("webp"),
    "animated png": animation("png"),
    "float pixels": float_tiff(0.5),
    "NaN pixels": float_tiff(np.nan),
}


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_left_out_and_counted(tmp_path, name):
    root = folder_with(tmp_path, "bad.png", BAD_FILES[name])
    data = read_folder(root)
    assert len(data) == 4
    [(path, reason)] = data.skipped
    assert path == str(root / "cat" / "bad.png")
    assert reason
    assert "\n" not in reason


def test_reasons_say_what_is_wrong(tmp_path):
    reasons = {}
    for name in ("animated gif", "bomb of 100 megapixels", "NaN pixels", "empty"):
        (tmp_path / name).mkdir()
        reasons[name] = read_folder(folder_with(tmp_path / name, "bad.png", BAD_FILES[name])).skipped[0][1]
    assert "animation of 3 frames" in reasons["animated gif"]
    assert "decompression bomb" in reasons["bomb of 100 megapixels"]
    assert "float pixels" in reasons["NaN pixels"]
    assert "cannot identify" in reasons["empty"]


# --- odd files that are images all the same ----------------------------------------------

RGB = Image.fromarray(PIXELS)
ODD_FILES = {
    "grey": encoded(RGB.convert("L"), "png"),
    "grey with alpha": encoded(RGB.convert("LA"), "png"),
    "16 bits": encoded(Image.fromarray(RNG.integers(0, 65536, (20, 20), np.uint16)), "png"),
    "1 bit": encoded(RGB.convert("1"), "png"),
    "palette": encoded(RGB.convert("P"), "png"),
    "transparent": encoded(RGB.convert("RGBA"), "png"),
    "CMYK": encoded(RGB.convert("CMYK"), "jpeg"),
    "YCbCr": encoded(RGB.convert("YCbCr"), "jpeg"),
    "progressive": encoded(RGB, "jpeg", progressive=True),
    "one pixel": encoded(Image.new("RGB", (1, 1)), "png"),
    "a line": encoded(Image.new("RGB", (3000, 1)), "png"),
    "large": encoded(Image.new("RGB", (3000, 2000)), "jpeg"),
    "one frame of gif": encoded(RGB.convert("P"), "gif"),
    "a bmp named png": WHOLE["bmp"],
}


@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_files_are_read(tmp_path, name):
    data = read_folder(folder_with(tmp_path, "odd.png", ODD_FILES[name]))
    assert (len(data), data.skipped) == (5, ())
    assert data.images.shape == (5, 32, 32, 3)
    with Image.open(io.BytesIO(ODD_FILES[name])) as picture:
        at = data.truth.file.tolist().index("cat/odd.png")
        assert tuple(data.truth.original_size[at]) == picture.size


# --- folders that are refused ------------------------------------------------------------


def image_at(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9)).save(path)


def build(*paths: str):
    return lambda root: [image_at(root / path) for path in paths] and None


BAD_FOLDERS = {
    "absent": (lambda root: root.rmdir(), "is not a folder"),
    "empty": (lambda root: None, "no classes"),
    "images without classes": (build("a.png", "b.png"), "no classes"),
    "one class": (build("cat/a.png", "cat/b.png"), "one class, cat,"),
    "one image": (build("cat/a.png"), "one class, cat,"),
    "only hidden folders": (build(".cat/a.png", ".dog/a.png"), "no classes"),
    "a class with no file": (
        lambda root: build("cat/a.png")(root) or (root / "dog").mkdir(),
        "dog has no readable image",
    ),
    "a class with no image": (
        lambda root: build("cat/a.png", "dog/a.png")(root) or (root / "dog/a.png").write_bytes(b"x"),
        "dog has no readable image",
    ),
    "one class in train": (build("train/cat/a.png", "test/cat/a.png", "test/dog/a.png"), "one class, cat,"),
    "another class in test": (
        build("train/cat/a.png", "train/dog/a.png", "test/cat/a.png", "test/emu/a.png"),
        "dog, emu is in train or test alone",
    ),
    "empty train and test": (lambda root: [(root / one).mkdir() for one in ("train", "test")] and None, "no classes"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_folders_refused(tmp_path, capsys, name):
    prepare, says = BAD_FOLDERS[name]
    root = tmp_path / "photos"
    root.mkdir()
    prepare(root)
    assert says in refused(["audit", f"folder:{root}"], capsys)


# --- archives that are refused -----------------------------------------------------------

N = 6
X, Y = RNG.integers(0, 256, (N, 8, 9, 3), np.uint8), np.array([0, 1, 2, 0, 1, 2])
GOOD = {"x_train": X, "y_train": Y, "x_test": X[:3], "y_test": Y[:3]}
BAD_IMAGES = {
    "float": (X / 255, "scale to 0..255"),
    "float32": (X.astype(np.float32), "scale to 0..255"),
    "NaN": (np.where(np.arange(N)[:, None, None, None] < 2, np.nan, X), "2 images with NaN"),
    "infinite": (np.full(X.shape, np.inf), "infinite"),
    "int64": (X.astype(np.int64), "uint8"),
    "int8": (X.astype(np.int8), "uint8"),
    "uint16": (X.astype(np.uint16), "uint8"),
    "bool": (X > 99, "uint8"),
    "complex": (X.astype(np.complex64), "uint8"),
    "text": (X.astype(str), "uint8"),
    "dates": (X.astype("datetime64[s]"), "uint8"),
    "objects": (X.astype(object), "arrays of objects"),
    "unequal sizes": (np.array([X[0], X[1, :5]], dtype=object), "arrays of objects"),
    "one number": (np.uint8(3), "uint8 ()"),
    "one row": (X[0, 0, 0], "uint8"),
    "flat": (X.reshape(N, -1), "uint8 (6, 216)"),
    "channels first": (X.transpose(0, 3, 1, 2), "channels last"),
    "two channels": (X[..., :2], "uint8"),
    "four channels": (np.concatenate([X, X[..., :1]], axis=3), "uint8"),
    "five axes": (X[None], "uint8"),
    "no rows": (X[:0], "is empty"),
    "no height": (X[:, :0], "is empty"),
    "no width": (X[:, :, :0], "is empty"),
}
BAD_LABELS = {
    "float": (Y.astype(float), "whole number"),
    "NaN": (np.full(N, np.nan), "whole number"),
    "bool": (Y > 0, "whole number"),
    "text": (Y.astype(str), "whole number"),
    "bytes": (Y.astype("S"), "whole number"),
    "complex": (Y.astype(complex), "whole number"),
    "objects": (Y.astype(object), "arrays of objects"),
    "one short": (Y[:-1], "6 images"),
    "one too many": (np.r_[Y, 0], "6 images"),
    "none": (Y[:0], "6 images"),
    "one number": (np.int64(1), "6 images"),
    "one-hot": (np.eye(3, dtype=int)[Y], "6 images"),
    "a row": (Y[None], "6 images"),
    "negative": (Y - 1, "from 0"),
    "beyond int64": (Y.astype(np.uint64) + np.uint64(2**63), "from 0"),
}


def write_npz(path: Path, **arrays) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


@pytest.mark.parametrize("source", ["{}", "npz:{}"])
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_archives_with_bad_images(tmp_path, capsys, name, source):
    value, says = BAD_IMAGES[name]
    path = write_npz(tmp_path / "mine.npz", **{**GOOD, "x_train": value})
    told = refused(["audit", source.format(path)], capsys)
    assert says in told
    assert "mine.npz" in told


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_archives_with_bad_test_images(tmp_path, capsys, name):
    value, says = BAD_IMAGES[name]
    path = write_npz(tmp_path / "mine.npz", **{**GOOD, "x_test": value})
    assert says in refused(["audit", str(path)], capsys)


@pytest.mark.parametrize("name", BAD_LABELS)
def test_archives_with_bad_labels(tmp_path, capsys, name):
    value, says = BAD_LABELS[name]
    path = write_npz(tmp_path / "mine.npz", **{**GOOD, "y_train": value})
    told = refused(["audit", str(path)], capsys)
    assert says in told
    assert "mine.npz" in told


@pytest.mark.parametrize("name", BAD_LABELS)
def test_label_files_that_do_not_fit(tmp_path, capsys, name):
    source = write_npz(tmp_path / "mine.npz", **GOOD)
    value, says = BAD_LABELS[name]
    np.save(tmp_path / "new.npy", value)
    told = refused(["audit", str(source), "--labels", str(tmp_path / "new.npy")], capsys)
    assert says in told or "cannot be read" in told
    assert "new.npy" in told


def cut(share: float):
    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return damage


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF  # the zip's CRC-32 sees it
    path.write_bytes(bytes(content))


def only(**arrays):
    return lambda path: write_npz(path, **arrays) and None


BAD_ARCHIVES = {
    **{f"cut at {share:.0%}": (cut(share), "cannot be read") for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999)},
    "a bit flipped": (flipped, "cannot be read"),
    "text": (lambda path: path.write_text("x_train"), "cannot be read"),
    "a pickle": (lambda path: path.write_bytes(b"\x80\x04K\x01."), "cannot be read"),
    "an npy": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "cannot be read"),
    "an empty zip": (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), "no arrays"),
    "a folder": (lambda path: path.unlink() or path.mkdir(), "is not a file"),
    "absent": (lambda path: path.unlink(), "is not a file"),
    "no arrays": (only(), "no arrays"),
    "no images": (only(y_train=Y), "no array named x_train"),
    "no labels": (only(x_train=X), "no array named y_train"),
    "other names": (only(images=X, labels=Y), "no array named x_train, y_train"),
    "test images alone": (only(x_train=X, y_train=Y, x_test=X), "no array named y_test"),
    "test labels alone": (only(x_train=X, y_train=Y, y_test=Y), "no array named x_test"),
    "test images of another size": (only(**{**GOOD, "x_test": X[:3, :5]}), "one size"),
    "classes by the million": (only(x_train=X, y_train=Y * 1_000_000), "without gaps"),
    "too few class names": (only(**GOOD, class_names=np.array(["a", "b"])), "class_names"),
    "class names as numbers": (only(**GOOD, class_names=np.arange(3)), "class_names"),
    "class names in a table": (only(**GOOD, class_names=np.array([["a", "b", "c"]])), "class_names"),
    "class names as objects": (only(**GOOD, class_names=np.array(["a", "b", "c"], object)), "arrays of objects"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_archives_refused(tmp_path, capsys, name):
    damage, says = BAD_ARCHIVES[name]
    path = write_npz(tmp_path / "mine.npz", **GOOD)
    damage(path)
    assert says in refused(["audit", str(path)], capsys)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path, capsys, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x_train=np.zeros((400, 64, 64, 3), np.uint8), y_train=np.zeros(400, int))
    assert len(load_whole(str(path))) == 400
    monkeypatch.setattr("scaletut.data.npz.LARGEST", 1_000_000)
    assert "decompression bomb" in refused(["audit", str(path)], capsys)


def test_archives_that_are_read(tmp_path):
    def read(**arrays):
        return load_whole(f"npz:{write_npz(tmp_path / 'mine.npz', **arrays)}")

    whole = read(**GOOD, class_names=np.array(["a", "b", "c", "d"]))
    assert whole.train.class_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(whole.test.images, X[:3])
    assert len(read(x_train=X, y_train=Y)) == N
    assert read(x_train=X, y_train=Y).class_names == ("0", "1", "2")
    for kind in (np.uint8, np.int16, np.uint64, ">i8"):
        assert read(x_train=X, y_train=Y.astype(kind)[:, None]).labels.tolist() == Y.tolist()
    for grey in (X[..., 0], X[..., :1]):
        np.testing.assert_array_equal(read(x_train=grey, y_train=Y).images, np.repeat(X[..., :1], 3, axis=3))


# --- label files, sources and outputs that are refused --------------------------------------

BAD_LABEL_FILES = {
    "absent": (lambda path: None, "No such file"),
    "a folder": (lambda path: path.mkdir(), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text": (lambda path: path.write_text("0 1 2"), "cannot be read"),
    "a pickle": (lambda path: path.write_bytes(b"\x80\x04K\x01."), "cannot be read"),
    "cut": (lambda path: np.save(path, Y) or cut(0.9)(path), "cannot be read"),
    "an archive": (lambda path: write_npz(path, y=Y) and None, "save the labels alone"),
    "classes that are not there": (lambda path: np.save(path, Y + 1), "3 classes"),
}


@pytest.mark.parametrize("name", BAD_LABEL_FILES)
def test_label_files_refused(tmp_path, capsys, name):
    prepare, says = BAD_LABEL_FILES[name]
    prepare(tmp_path / "new.npy")
    source = write_npz(tmp_path / "mine.npz", **GOOD)
    assert says in refused(["audit", str(source), "--labels", str(tmp_path / "new.npy")], capsys)


BAD_SOURCES = {
    "": "unknown data source",
    "cifar100": "unknown data source",
    "cifar10:a=1": "unknown data source",
    "folder:": "unknown data source",
    "npz:": "unknown data source",
    "mine.npy": "unknown data source",
    "zipf10:blury=3": "did you mean blurred",
    "zipf10:blank=2.5": "whole number",
    "zipf10:dark=-1": "whole number",
    "zipf10:noisy=nan": "whole number",
    "zipf10:bright=9999": "at most half",
    "zipf10:blank=3,blank=3": "twice",
}


@pytest.mark.parametrize("source", BAD_SOURCES)
def test_sources_refused(capsys, source):
    assert BAD_SOURCES[source] in refused(["audit", source], capsys)


BAD_OUTPUTS = {
    "out is no npz": (["--out", "{}/cleaned.csv"], "named .npz"),
    "out has no ending": (["--out", "{}/cleaned"], "named .npz"),
    "json is a folder": (["--json", "{}"], "cannot be written"),
    "html is a folder": (["--html", "{}"], "cannot be written"),
    "out is a folder": (["--out", "{}/folder.npz"], "cannot be written"),
    "json below a file": (["--json", "{}/mine.npz/x.json"], "cannot be written"),
    "html below a file": (["--html", "{}/mine.npz/deep/x.html"], "cannot be written"),
    "out is the source": (["--out", "{}/mine.npz"], "is the source"),
    "json is the source": (["--json", "{}/mine.npz"], "is the source"),
    "the same file twice": (["--json", "{}/x.json", "--html", "{}/x.json"], "same file"),
    "unknown check": (["--only", "blur"], "unknown check"),
    "below a device": (["--json", "/dev/null/x.json"], "cannot be written"),
}


@pytest.mark.parametrize("name", BAD_OUTPUTS)
def test_outputs_refused_before_the_work(tmp_path, capsys, name):
    arguments, says = BAD_OUTPUTS[name]
    source = write_npz(tmp_path / "mine.npz", **GOOD)
    before = source.read_bytes()
    (tmp_path / "folder.npz").mkdir()
    assert says in refused(["audit", str(source), *(one.format(tmp_path) for one in arguments)], capsys)
    assert source.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder.npz", "mine.npz"]


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, capsys, monkeypatch):
    source = write_npz(tmp_path / "mine.npz", **GOOD)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as root every folder may be written to
    assert "cannot be written" in refused(["audit", str(source), "--json", str(tmp_path / "x.json")], capsys)


def test_there_are_two_hundred():
    names = (BAD_FILES, ODD_FILES, BAD_FOLDERS, BAD_ARCHIVES, BAD_LABEL_FILES, BAD_SOURCES, BAD_OUTPUTS)
    assert sum(map(len, names)) + 3 * len(BAD_IMAGES) + 2 * len(BAD_LABELS) >= 200
