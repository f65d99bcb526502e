"""Folders of one's own images: read as they are, and no bad file lost without a word."""

import numpy as np
import pytest
from PIL import Image

from scaletut.data import load
from scaletut.data.folder import folder, read_image
from scaletut.errors import DataError, ParameterError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def flat(path, colour=RED, size=(40, 40), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def toy(root, counts=(("cat", 10), ("dog", 5))):
    for name, count in counts:
        for number in range(count):
            flat(root / name / f"{number:03d}.png", (number, 100, 200))
    return root


def close(image, colour, tolerance=3):
    assert (np.abs(image.astype(int) - colour) <= tolerance).all(), (image.reshape(-1, 3).mean(axis=0), colour)


def test_classes_sizes_and_split(tmp_path):
    data = load(f"folder:{toy(tmp_path)}")
    assert data.train.class_names == ("cat", "dog")
    assert (data.train.class_counts().tolist(), data.test.class_counts().tolist()) == ([8, 4], [2, 1])
    assert data.train.images.shape == (12, 32, 32, 3)
    seen = [
        *data.train.images[:, 0, 0, 0][data.train.labels == 0],
        *data.test.images[:, 0, 0, 0][data.test.labels == 0],
    ]
    assert sorted(seen) == list(range(10))
    assert load(f"folder:{tmp_path}").train.digest == data.train.digest
    splits = {load(f"folder:{tmp_path}", seed=seed).test.digest for seed in range(6)}
    assert len(splits) > 1
    assert load(f"folder:{tmp_path},size=16").train.images.shape == (12, 16, 16, 3)
    assert len(load(f"folder:{tmp_path}", n_train=6).train) == 6


def test_train_and_test_folders_are_the_split(tmp_path):
    toy(tmp_path / "train")
    toy(tmp_path / "test", (("cat", 2), ("dog", 3)))
    (tmp_path / "notes.txt").write_text("hello")
    data = folder(tmp_path)
    assert data.train.class_counts().tolist() == [10, 5]
    assert data.test.class_counts().tolist() == [2, 3]
    assert data.train.skipped == ((str(tmp_path / "notes.txt"), "beside train and test"),)
    flat(tmp_path / "test" / "emu" / "1.png")
    with pytest.raises(DataError, match="emu"):
        folder(tmp_path)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "webp", "tiff", "ppm"])
def test_formats(tmp_path, ending):
    close(read_image(flat(tmp_path / f"x.{ending}", BLUE)), BLUE)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_orientation_is_obeyed(tmp_path, ending):
    picture = Image.new("RGB", (64, 64), RED)
    picture.paste(GREEN, (0, 0, 32, 64))  # green on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: left becomes top
    picture.save(tmp_path / f"x.{ending}", exif=exif)
    image = read_image(tmp_path / f"x.{ending}")
    close(image[2:14], GREEN, 6)
    close(image[18:30], RED, 6)


def test_other_modes_become_rgb(tmp_path):
    def saved(picture, name="x.png"):
        picture.save(tmp_path / name)
        return read_image(tmp_path / name)

    close(saved(Image.new("L", (40, 40), 90)), (90, 90, 90))
    close(saved(Image.new("1", (40, 40), 1)), WHITE)
    close(saved(Image.new("RGBA", (40, 40), (255, 0, 0, 0))), WHITE)
    close(saved(Image.new("RGBA", (40, 40), (255, 0, 0, 128))), (255, 127, 127))
    close(saved(Image.new("LA", (40, 40), (0, 0))), WHITE)
    close(saved(Image.fromarray(np.full((40, 40), 40 * 257, np.uint16))), (40, 40, 40))
    close(saved(Image.new("CMYK", (40, 40), (0, 0, 0, 0)), "x.jpg"), WHITE)
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    close(saved(palette), GREEN)
    palette.info["transparency"] = 1
    palette.save(tmp_path / "t.png", transparency=1)
    close(read_image(tmp_path / "t.png"), WHITE)


def test_the_central_square_is_kept_in_shape(tmp_path):
    picture = Image.new("RGB", (200, 100), RED)
    picture.paste(GREEN, (50, 0, 150, 100))
    picture.save(tmp_path / "x.png")
    close(read_image(tmp_path / "x.png")[:, 1:-1], GREEN)  # the filter reaches over the edge by a pixel
    close(read_image(flat(tmp_path / "small.png", BLUE, (3, 2)), 16), BLUE)
    assert read_image(flat(tmp_path / "large.jpg", BLUE, (900, 700)), 48).shape == (48, 48, 3)


def test_bad_files_are_listed_with_the_reason(tmp_path):
    toy(tmp_path)
    whole = flat(tmp_path / "cat" / "z.jpg", size=(300, 300))
    bad = {
        "cat/half.jpg": whole.read_bytes()[: whole.stat().st_size // 2],
        "cat/empty.png": b"",
        "dog/deep/readme.txt": b"not an image",
        "dog/.DS_Store": b"\x00\x01",
        "stray.png": b"x",
    }
    for name, content in bad.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "dog" / "lost.png").symlink_to(tmp_path / "nothing")
    flat(tmp_path / "dog" / "deep" / "good.png")
    data = folder(tmp_path)
    listed = dict(data.train.skipped)
    assert set(listed) == {str(tmp_path / name) for name in [*bad, ".ipynb_checkpoints", "dog/lost.png"]}
    assert "truncated" in listed[str(tmp_path / "cat/half.jpg")]
    assert "cannot identify" in listed[str(tmp_path / "cat/empty.png")]
    assert listed[str(tmp_path / "stray.png")] == "in no class folder"
    assert all(reason and "\n" not in reason for reason in listed.values())
    assert data.test.skipped == ()
    assert len(data.train) + len(data.test) == 17  # 15, z.jpg, deep/good.png


def build_one_class(root):
    toy(root, (("cat", 3),))


def build_empty_class(root):
    toy(root)
    (root / "emu").mkdir()


def build_unreadable_class(root):
    toy(root)
    (root / "emu").mkdir()
    (root / "emu" / "a.png").write_bytes(b"junk")


def build_images_without_classes(root):
    flat(root / "a.png")


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda root: None, "no classes"),
        (build_one_class, "one class, cat,"),
        (build_empty_class, "emu has no readable image"),
        (build_unreadable_class, "emu has no readable image.*a.png"),
        (build_images_without_classes, "one sub-folder a class"),
        (lambda root: toy(root, (("cat", 3), ("dog", 1))), "dog has one readable image"),
        (lambda root: toy(root / "train") and toy(root / "test", (("cat", 1),)), "one class, cat,"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_line(tmp_path, build, says):
    build(tmp_path)
    with pytest.raises(DataError, match=says) as caught:
        folder(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value) or tmp_path.name in str(caught.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        load(f"folder:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match="is not a folder"):
        folder(flat(tmp_path / "a.png"))
    with pytest.raises(ParameterError, match="size=0"):
        folder(tmp_path, size=0)
