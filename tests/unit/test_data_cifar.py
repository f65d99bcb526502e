"""CIFAR-10: found where it is said to be, refused by name when it is not whole, nothing left behind."""

import functools
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from scaletut.data import cifar, load
from scaletut.errors import DataError, ParameterError

REAL = Path(os.environ.get("SCALETUT_DATA") or "/nowhere") / cifar.NPZ
TRAIN, TEST = 100, 50


@pytest.fixture(autouse=True)
def sandbox(tmp_path, monkeypatch):
    """A data folder and a cache of the test's own, a data set of 150 images, and no network."""
    monkeypatch.setenv("SCALETUT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(cifar, "N_TRAIN", TRAIN)
    monkeypatch.setattr(cifar, "N_TEST", TEST)
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # the discard port: nobody answers


def arrays():
    draw = np.random.default_rng(0)
    return {
        "x_train": draw.integers(0, 256, (TRAIN, 32, 32, 3), np.uint8),
        "y_train": np.arange(TRAIN) % 10,
        "x_test": draw.integers(0, 256, (TEST, 32, 32, 3), np.uint8),
        "y_test": np.arange(TEST) % 10,
    }


def write_npz(path, **changed):
    np.savez_compressed(path, **{key: value for key, value in (arrays() | changed).items() if value is not None})
    return path


class Python2Pickler(pickle._Pickler):
    """Writes byte and text strings as Python 2 did, whose pickles CIFAR-10 is published as."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def write_batches(folder, monkeypatch, old=True):
    """torchvision's six files, holding `arrays()`, and the md5 sums to expect."""
    folder.mkdir(parents=True)
    data, sums = arrays(), {}
    parts = {f"data_batch_{i + 1}": ("train", slice(20 * i, 20 * i + 20)) for i in range(5)}
    for name, (part, rows) in (parts | {"test_batch": ("test", slice(None))}).items():
        images = data[f"x_{part}"][rows].transpose(0, 3, 1, 2).reshape(-1, 3072)
        batch = {"data": np.ascontiguousarray(images), "labels": data[f"y_{part}"][rows].tolist(), "batch_label": name}
        file = io.BytesIO()
        Python2Pickler(file, 2).dump(batch) if old else pickle.dump(batch, file, 4)
        content = (
            file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray") if old else file.getvalue()
        )
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cifar, "BATCH_MD5", sums)
    return folder


@pytest.fixture
def server(tmp_path):
    """An HTTP server of the folder `server`; its address."""
    (tmp_path / "server").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "server"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()


def publish(tmp_path, monkeypatch, server, damage=lambda content: content):
    """An archive to download, its md5 known, then damaged on its way."""
    write_batches(tmp_path / "source" / cifar.FOLDER, monkeypatch)
    archive = tmp_path / "server" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "source" / cifar.FOLDER, cifar.FOLDER)
        extra = tarfile.TarInfo("../../escaped")
        tar.addfile(extra)
    monkeypatch.setattr(cifar, "ARCHIVE_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar, "URL", f"{server}/{archive.name}")
    archive.write_bytes(damage(archive.read_bytes()))
    return archive


def assert_is_ours(data):
    expected = arrays()
    for part, one in (("train", data.train), ("test", data.test)):
        np.testing.assert_array_equal(one.images, expected[f"x_{part}"])
        np.testing.assert_array_equal(one.labels, expected[f"y_{part}"])
        assert one.class_names == cifar.CLASS_NAMES
        assert one.name == "cifar10"


def refused(path):
    """Loading is refused in one line that names the file."""
    with pytest.raises(DataError) as caught:
        load("cifar10")
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_npz_in_the_data_folder(tmp_path):
    write_npz(tmp_path / "data" / cifar.NPZ)
    assert_is_ours(load("cifar10"))


def test_npz_in_the_cache_when_the_data_folder_has_none(tmp_path, monkeypatch):
    (tmp_path / "cache" / "scaletut").mkdir(parents=True)
    write_npz(tmp_path / "cache" / "scaletut" / cifar.NPZ)
    assert_is_ours(load("cifar10"))
    monkeypatch.delenv("SCALETUT_DATA")
    assert_is_ours(load("cifar10"))


def test_labels_of_other_integer_types_and_shapes(tmp_path):
    write_npz(tmp_path / "data" / cifar.NPZ, y_train=(np.arange(TRAIN) % 10).astype(np.uint8)[:, None])
    assert_is_ours(load("cifar10"))


def test_rows_that_are_not_the_published_pixels_are_known(tmp_path):
    write_npz(tmp_path / "data" / cifar.NPZ, jpeg_train_idx=np.array([3, 5]), jpeg_test_idx=np.array([], int))
    data = load("cifar10")
    assert np.flatnonzero(data.train.truth.lossy).tolist() == [3, 5]
    assert not data.test.truth.lossy.any()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"y_test": None}, "no array named y_test"),
        ({"x_train": arrays()["x_train"][:99]}, r"\(99, 32, 32, 3\)"),
        ({"x_train": arrays()["x_train"].transpose(0, 3, 1, 2)}, r"\(100, 3, 32, 32\)"),
        ({"x_test": arrays()["x_test"] / 255}, "float64"),
        ({"y_train": np.arange(TRAIN) % 10 + 1}, "from 1 to 10"),
        ({"y_train": (np.arange(TRAIN) % 10).astype(float)}, "float64"),
        ({"y_train": np.zeros(TRAIN, int)}, "0 to 100 train images a class, not 10"),
        ({"y_test": np.arange(TEST) % 10 - np.eye(1, TEST, 3, int)[0]}, "4 to 6 test images a class"),
        ({"y_train": np.array([None] * TRAIN)}, "cannot be read"),
        ({"jpeg_train_idx": np.array([100])}, "jpeg_train_idx"),
    ],
)
def test_npz_that_is_not_cifar10_is_refused_by_name(tmp_path, changed, says):
    path = write_npz(tmp_path / "data" / cifar.NPZ, **changed)
    with pytest.raises(DataError, match=says):
        load("cifar10")
    refused(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_truncated_npz_is_refused_by_name(tmp_path, share):
    path = write_npz(tmp_path / "data" / cifar.NPZ)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "cannot be read" in refused(path)


@pytest.mark.parametrize("compressed", [True, False])
def test_an_altered_npz_never_gives_other_data(tmp_path, compressed):
    path = tmp_path / "data" / cifar.NPZ
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    content = path.read_bytes()
    draw = np.random.default_rng(0)
    caught = 0
    for at in [*draw.integers(0, len(content), 60), *range(len(content) - 40, len(content))]:
        changed = bytearray(content)
        changed[at] ^= 1 << int(draw.integers(8))
        path.write_bytes(changed)
        try:
            assert_is_ours(load("cifar10"))  # a bit that carries nothing, as in a time stamp
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017
            caught += 1
    assert caught > 60


def test_npz_that_is_something_else(tmp_path):
    path = tmp_path / "data" / cifar.NPZ
    np.save(tmp_path / "data" / "x.npy", np.zeros(3))
    (tmp_path / "data" / "x.npy").rename(path)
    refused(path)
    path.write_text("<html>404</html>")
    refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", "text")
    refused(path)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("where", ["data", "cache/scaletut"])
@pytest.mark.filterwarnings("error")
def test_torchvision_s_files(tmp_path, monkeypatch, where, old):
    write_batches(tmp_path / where / cifar.FOLDER, monkeypatch, old)
    assert_is_ours(load("cifar10"))


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
@pytest.mark.parametrize("where", ["data", "cache/scaletut"])
def test_damaged_torchvision_file_is_refused_by_name(tmp_path, monkeypatch, where, damage):
    folder = write_batches(tmp_path / where / cifar.FOLDER, monkeypatch)
    path = folder / "data_batch_3"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"" if damage == "truncated" else bytes([content[-1] ^ 1])))
    refused(path)
    assert folder.exists() == (where == "data")  # what the user put there is the user's; the cache is ours to clean


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    """Even with the right md5."""
    folder = write_batches(tmp_path / "data" / cifar.FOLDER, monkeypatch)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    content = pickle.dumps({"data": Evil(), "labels": []})
    (folder / "test_batch").write_bytes(content)
    cifar.BATCH_MD5["test_batch"] = hashlib.md5(content).hexdigest()
    assert "mkdir" in refused(folder / "test_batch")
    assert not (tmp_path / "ran").exists()


def test_md5_sums_are_torchvision_s():
    published = pytest.importorskip("torchvision").datasets.CIFAR10
    assert dict(published.train_list + published.test_list) == cifar.BATCH_MD5
    assert (published.tgz_md5, published.base_folder) == (cifar.ARCHIVE_MD5, cifar.FOLDER)
    assert published.filename == "cifar-10-python.tar.gz"


def test_download_then_cache(tmp_path, monkeypatch, server):
    pytest.importorskip("torchvision")
    archive = publish(tmp_path, monkeypatch, server)
    assert_is_ours(load("cifar10"))
    cache = tmp_path / "cache" / "scaletut"
    assert sorted(str(one.relative_to(cache)) for one in cache.rglob("*")) == sorted(
        [cifar.FOLDER, *(f"{cifar.FOLDER}/{name}" for name in cifar.BATCH_MD5)]
    )
    archive.unlink()
    assert_is_ours(load("cifar10"))


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-100], lambda content: content[:500] + b"x" + content[501:], lambda content: b""],
)
def test_damaged_download_leaves_nothing(tmp_path, monkeypatch, server, damage):
    pytest.importorskip("torchvision")
    publish(tmp_path, monkeypatch, server, damage)
    assert "cifar-10-python.tar.gz" in refused("md5")
    assert list((tmp_path / "cache" / "scaletut").iterdir()) == []


def test_download_of_an_archive_without_a_batch(tmp_path, monkeypatch, server):
    pytest.importorskip("torchvision")
    publish(tmp_path, monkeypatch, server)
    monkeypatch.setattr(cifar, "BATCH_MD5", cifar.BATCH_MD5 | {"data_batch_6": "0"})
    refused("data_batch_6")
    assert list((tmp_path / "cache" / "scaletut").iterdir()) == []


def test_without_a_network_the_error_says_what_to_do(tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(DataError, match="SCALETUT_DATA") as caught:
        load("cifar10")
    assert 'data="zipf10"' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "scaletut").iterdir()) == []


def test_a_data_folder_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALETUT_DATA", str(tmp_path / "absent"))
    assert "not a folder" in refused(tmp_path / "absent")


def test_sizes_are_drawn_by_class(tmp_path):
    write_npz(tmp_path / "data" / cifar.NPZ)
    data = load("cifar10", n_train=40, n_test=20, seed=1)
    assert data.train.class_counts().tolist() == [4] * 10
    assert data.test.class_counts().tolist() == [2] * 10
    assert load("cifar10", n_train=40, seed=2).train.digest != data.train.digest
    with pytest.raises(ParameterError, match="n_train=101"):
        load("cifar10", n_train=101)
    assert len(load("cifar10", n_train=TRAIN).train) == TRAIN


@pytest.mark.parametrize("source", ["cifar", "cifar100", "cifar10:x", "", "folder:", "folder", "zipf"])
def test_unknown_sources(source):
    with pytest.raises(ParameterError, match="use cifar10, zipf10"):
        load(source)


@pytest.mark.skipif(
    not REAL.is_file(), reason="REAL CIFAR-10 NOT TESTED: set SCALETUT_DATA to a folder with cifar10.npz"
)
def test_the_real_one(monkeypatch):
    monkeypatch.setenv("SCALETUT_DATA", str(REAL.parent))
    monkeypatch.setattr(cifar, "N_TRAIN", 50_000)
    monkeypatch.setattr(cifar, "N_TEST", 10_000)
    data = load("cifar10")
    assert data.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert data.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    from scaletut.data import channel_statistics

    mean, std = channel_statistics(data.train)
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-4)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=1e-4)
