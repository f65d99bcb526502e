"""Images of one's own: one sub-folder a class."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaletut.data.imageset import ImageSet, TrainTest, Truth
from scaletut.errors import DataError, ParameterError

if TYPE_CHECKING:
    from PIL import Image

SIDE = 32  # pixels
TEST_SHARE = 0.2
ANIMATED = ("GIF", "PNG", "WEBP")  # not MPO: a phone's photograph with a second view inside


def folder(path: Path | str, *, size: int = SIDE, seed: int = 0) -> TrainTest:
    """Read a folder with one sub-folder a class; images of any format that Pillow reads, however deep inside it.

    Each image is turned as its EXIF tag says, laid on white where it is transparent, cut to the central square,
    resized to `size` x `size` pixels, RGB.
    Files that are not images, or damaged ones, are left out and listed in `ImageSet.skipped` with the reason.

    With sub-folders `train` and `test`, which then hold the classes, that is the split.
    Otherwise a fifth of each class, at least one image, is drawn by `seed` for the test set, and what was skipped
    is listed with the training set.
    Raises `DataError` when there are no classes, one alone, an empty one, or not the same ones in both parts.
    """
    data = read_folder(path, size=size)
    return halves(data, seed) if isinstance(data, ImageSet) else data


def read_folder(path: Path | str, *, size: int = SIDE) -> ImageSet | TrainTest:
    """As `folder`, but a folder without the sub-folders `train` and `test` stays one image set.

    `Truth.file` and `Truth.original_size` tell where each image came from.
    """
    root = Path(path).expanduser()
    if size < 1:
        raise ParameterError(f"size={size} is the side of the images in pixels; use 1 or more")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give one that holds a sub-folder for each class")
    if not ((root / "train").is_dir() and (root / "test").is_dir()):
        return _read(root, root.name, size)
    parts = TrainTest(_read(root / "train", root.name, size), _read(root / "test", root.name, size))
    if parts.train.class_names != parts.test.class_names:
        odd = sorted(set(parts.train.class_names) ^ set(parts.test.class_names))
        raise DataError(f"{root}: {', '.join(odd)} is in train or test alone; give both the same sub-folders")
    beside = _skip_all((one for one in root.iterdir() if one.name not in ("train", "test")), "beside train and test")
    truth = replace(parts.train.truth, skipped=parts.train.skipped + beside)
    return replace(parts, train=replace(parts.train, truth=truth))


def halves(data: ImageSet, seed: int) -> TrainTest:
    """A fifth of each class for testing, at least one image. Raises `DataError` when a class has one image alone."""
    counts = data.class_counts()
    if (counts == 1).any() or len(data) < 2:
        lonely = data.class_names[int(np.flatnonzero(counts == 1)[0])]
        raise DataError(f"{data.name}: class {lonely} has one readable image; to train and to test takes two or more")
    order = np.random.default_rng(seed).permutation(len(data))
    held = np.zeros(len(data), bool)
    for number, count in enumerate(counts):
        held[order[data.labels[order] == number][: max(1, round(TEST_SHARE * count))]] = True
    test = data.take(held)
    return TrainTest(data.take(~held), replace(test, truth=replace(test.truth or Truth(), skipped=())))


def _read(root: Path, name: str, size: int) -> ImageSet:
    """All images below `root`; sorted by path, so that the result does not depend on the file system."""
    inside = sorted(root.iterdir())
    classes = [one for one in inside if one.is_dir() and not one.name.startswith(".")]
    if len(classes) < 2:
        found = f"one class, {classes[0].name}," if classes else "no classes"
        raise DataError(f"{root} has {found} but learning to classify takes two; make one sub-folder a class")
    skipped = list(_skip_all((one for one in inside if one not in classes), "in no class folder"))
    images, labels, files, sizes = [], [], [], []
    for number, one in enumerate(classes):
        for file in sorted(file for file in one.rglob("*") if not file.is_dir()):
            try:
                image, original = _image_and_size(file, size)
                images.append(image), sizes.append(original), labels.append(number)
                files.append(file.relative_to(root).as_posix())
            except Exception as error:  # decoders of damaged files raise anything; the file is reported, not lost
                skipped.append((str(file), " ".join(str(error).split()) or type(error).__name__))
        if number not in labels[-1:]:
            reason = f" ({len(skipped)} files skipped; the last, {skipped[-1][0]}: {skipped[-1][1]})" if skipped else ""
            raise DataError(f"{one} has no readable image{reason}; put images there or remove the folder")
    names = tuple(one.name for one in classes)
    truth = Truth(file=np.array(files), original_size=np.array(sizes, np.int64), skipped=tuple(skipped))
    return ImageSet(np.stack(images), np.array(labels, np.int64), names, name, truth)


def read_image(file: Path, size: int = SIDE) -> np.ndarray:
    """One image as uint8 (size, size, 3). Raises what Pillow raises for a file that it cannot read.

    An animation is no image and is refused, and so are pixels without a range (float) and more of them than Pillow
    lets pass (`Image.MAX_IMAGE_PIXELS`), which is how a small file fills the memory.
    """
    return _image_and_size(file, size)[0]


def _image_and_size(file: Path, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The image of `read_image`, and the file's width and height in pixels."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as opened:
            original = opened.size
            return pixels_of(opened, size), original


def pixels_of(opened: Image.Image, size: int) -> np.ndarray:
    """What Pillow has opened and not yet decoded, as uint8 (size, size, 3); refuses as `read_image` does."""
    from PIL import Image, ImageOps

    if opened.format in ANIMATED and getattr(opened, "is_animated", False):
        raise ValueError(f"an animation of {opened.n_frames} frames; save the ones you need as images")
    opened.draft("RGB", (2 * size, 2 * size))  # a large JPEG need not be decoded in full
    picture = ImageOps.exif_transpose(opened)
    if picture.mode == "F":
        raise ValueError("float pixels, whose range is unknown; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BILINEAR))


def _skip_all(paths: Iterable[Path], reason: str) -> tuple[tuple[str, str], ...]:
    return tuple((str(one), reason) for one in sorted(paths))
