"""The networks: published sizes, real shortcuts, seeds, and that they train at all."""

from __future__ import annotations

import subprocess
import sys
from urllib.error import URLError

import pytest
import torch
from torch import nn

from scaletut.errors import DataError, ParameterError
from scaletut.models import BasicBlock, CifarResNet, TutorialNet, build, count_parameters, names
from scaletut.models import resnet as resnet_room
from scaletut.models.resnet import Projection

SMALL = {"resnet8": 0.5, "plain8": 0.5, "speednet-s": 0.25, "tutorial": 0.5}  # name -> width: quick to run


def images(n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet20", 272_474),
        ("resnet56", 855_770),
        ("resnet18", 11_173_962),
        ("plain20", 272_474 - 2_752),  # two projections: 16*32 + 2*32 and 32*64 + 2*64
        ("plain56", 855_770 - 2_752),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, parameters: int) -> None:
    assert count_parameters(build(name)) == parameters


def test_option_a_of_the_paper_is_ours_without_projections() -> None:
    # He et al. 2016, table 6, in millions; their shortcuts have no parameters.
    paper = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
    for depth, millions in paper.items():
        digits = 1 if depth == 110 else 2
        assert round(count_parameters(CifarResNet(depth, residual=False)) / 1e6, digits) == millions


def test_torchvision_resnet18_has_its_published_size() -> None:
    from torchvision import models

    assert count_parameters(models.resnet18()) == 11_689_512


def test_plain_net_is_the_residual_net_minus_its_shortcuts() -> None:
    residual, plain = CifarResNet(14, width=0.5), CifarResNet(14, width=0.5, residual=False)
    shapes = {n: p.shape for n, p in residual.named_parameters() if ".shortcut." not in n}
    assert shapes == {n: p.shape for n, p in plain.named_parameters()}
    shortcuts = sum(p.numel() for n, p in residual.named_parameters() if ".shortcut." in n)
    assert shortcuts > 0
    assert count_parameters(residual) - shortcuts == count_parameters(plain)


def test_depth_counts_layers_with_weights_on_the_longest_path() -> None:
    for depth in (8, 20, 44):
        net = CifarResNet(depth)
        on_path = [n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and "shortcut" not in n]
        assert len(on_path) == depth


@pytest.mark.parametrize("width", [0.25, 0.4, 1.0, 1.7, 4.0])
def test_width_scales_every_stage(width: float) -> None:
    net = CifarResNet(8, width=width)
    assert [net.stage1[0].conv1.out_channels, net.stage2[0].conv1.out_channels, net.fc.in_features] == [
        round(c * width) for c in (16, 32, 64)
    ]
    assert net(images(2)).shape == (2, 10)


def silence(block: BasicBlock) -> None:
    """Zero the branch: its last norm gives 0 for any input."""
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)


def test_a_silent_branch_leaves_the_identity() -> None:
    block = BasicBlock(8, 8)
    silence(block)
    x = images(2)[:, :1].repeat(1, 8, 1, 1).relu()
    assert torch.equal(block(x), x)
    plain = BasicBlock(8, 8, residual=False)
    silence(plain)
    assert torch.equal(plain(x), torch.zeros_like(x))


def test_a_silent_branch_leaves_the_projection_where_shapes_change() -> None:
    block = BasicBlock(8, 16, stride=2).eval()
    silence(block)
    x = images(2)[:, :1].repeat(1, 8, 1, 1)
    projection, norm = block.shortcut
    assert projection.kernel_size == (1, 1)
    assert isinstance(norm, nn.BatchNorm2d)
    expected = norm(nn.functional.conv2d(x[:, :, ::2, ::2], projection.weight)).relu()
    torch.testing.assert_close(block(x), expected)


def test_a_residual_net_equals_the_same_net_written_out() -> None:
    net = CifarResNet(8, width=0.5).eval()
    x = net.relu(net.bn(net.conv(images(2))))
    for block in (net.stage1[0], net.stage2[0], net.stage3[0]):
        branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
        x = torch.relu(branch + block.shortcut(x))
    torch.testing.assert_close(net(images(2)), net.fc(x.mean((2, 3))))


@pytest.mark.parametrize("name", [*SMALL, "resnet18"])
def test_gradients_reach_every_layer(name: str) -> None:
    net = build(name, width=SMALL.get(name), seed=3)
    nn.functional.cross_entropy(net(images()), torch.arange(4)).backward()
    silent = [
        n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    assert silent == []


@pytest.mark.parametrize("name", SMALL)
def test_loss_falls_in_twenty_steps(name: str) -> None:
    net, x, y = build(name, width=SMALL[name], seed=1), images(32), torch.arange(32) % 10
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_and_bf16_autocast_give_nearly_the_same(name: str) -> None:
    net = build(name, width=SMALL[name]).eval()
    x = images(8)
    exact = net(x)
    moved = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(x.to(memory_format=torch.channels_last)), exact, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = moved(x.to(memory_format=torch.channels_last))
    assert low.shape == exact.shape
    assert (low.float() - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("name", [*SMALL, "resnet18"])
def test_the_seed_decides_the_weights_and_nothing_else_is_touched(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build(name, width=SMALL.get(name), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    x = images(2)
    for net in (first, again, other):
        net.eval()
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_the_global_seed_does_not_reach_inside() -> None:
    torch.manual_seed(1)
    first = build("resnet8", seed=0).conv.weight
    torch.manual_seed(2)
    assert torch.equal(build("resnet8", seed=0).conv.weight, first)


@pytest.mark.parametrize("name", ["resnet8", "plain14", "resnet18", "speednet-s", "tutorial"])
def test_classes_and_spec(name: str) -> None:
    net = build(name, num_classes=7)
    assert net.eval()(images(2)).shape == (2, 7)
    assert (net.spec.name, net.spec.num_classes, net.spec.width) == (name, 7, None)


def test_speed_nets_whiten_with_the_images_given() -> None:
    x = images(64)
    whitened, plain = build("speednet-s", whiten=x), build("speednet-s")
    assert not torch.equal(whitened.whiten.weight, plain.whiten.weight)
    assert torch.equal(whitened.head.weight, plain.head.weight)
    assert set(whitened.spec.frozen) == {n for n, p in whitened.named_parameters() if not p.requires_grad}
    assert "whiten.weight" in whitened.spec.frozen


def test_every_offered_name_builds() -> None:
    for name in names():
        if name not in ("resnet18-imagenet", "efficientnet-lite0", "resnet110", "plain110"):
            assert build(name).spec.name == name


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet21", "'resnet20'"),
        ("resnet34", "'resnet32'"),
        ("plain18", "'plain20'"),
        ("resnet50", "'resnet56'"),
        ("resnet2", "'resnet8'"),
        ("Resnet20", "'resnet20'"),
        ("speednet", "'speednet-"),
        ("tutorail", "'tutorial'"),
        ("efficientnet", "'efficientnet-lite0'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ParameterError, match=name) as refused:
        build(name)
    assert nearest in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "resnet20", "num_classes": 0}, "num_classes is 0"),
        ({"name": "resnet20", "width": 0.0}, "above 0"),
        ({"name": "resnet20", "width": float("nan")}, "above 0"),
        ({"name": "resnet20", "width": 0.01}, "without a channel"),
        ({"name": "tutorial", "width": 0.01}, "without a channel"),
        ({"name": "resnet18", "width": 2.0}, "one width"),
        ({"name": "resnet20", "seed": -1}, "seed is -1"),
        ({"name": "resnet20", "whiten": torch.zeros(1, 3, 8, 8)}, "no whitening layer"),
    ],
)
def test_arguments_that_a_net_cannot_use_are_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        build(**arguments)


@pytest.mark.parametrize("depth", [2, 7, 21, 18])
def test_depths_other_than_6n_plus_2_are_refused(depth: int) -> None:
    with pytest.raises(ParameterError, match=r"6n \+ 2"):
        CifarResNet(depth)


def test_tutorial_net_other_image_sizes() -> None:
    assert TutorialNet(image_size=48, width=0.25)(torch.zeros(1, 3, 48, 48)).shape == (1, 10)
    with pytest.raises(ParameterError, match="three 2x2 pools"):
        TutorialNet(image_size=4)


def test_resnet18_stem_keeps_the_side_of_small_images() -> None:
    net = build("resnet18")
    stem = net.maxpool(net.relu(net.bn1(net.conv1(images(1)))))
    assert stem.shape == (1, 64, 32, 32)
    assert net.layer4(net.layer3(net.layer2(net.layer1(stem)))).shape == (1, 512, 4, 4)


def test_shrinking_filters_keeps_sum_and_symmetry() -> None:
    filters = torch.randn(5, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    small = resnet_room.shrink_filters(filters)
    assert small.shape == (5, 3, 3, 3)
    torch.testing.assert_close(small.sum((2, 3)), filters.sum((2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(resnet_room.shrink_filters(filters.flip(3)), small.flip(3), rtol=1e-4, atol=1e-5)
    edge = torch.zeros(1, 1, 7, 7)
    edge[..., :3], edge[..., 4:] = 1.0, -1.0  # a vertical edge stays a vertical edge
    left, middle, right = resnet_room.shrink_filters(edge)[0, 0].sum(0)
    assert left > 2
    assert abs(middle) < 1e-5
    assert right == pytest.approx(-left.item())
    torch.testing.assert_close(resnet_room.shrink_filters(filters, side=7), filters)


def test_imagenet_weights_go_everywhere_but_stem_and_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    torch.manual_seed(0)
    state = models.resnet18().state_dict()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda *_args, **_kwargs: state)
    net = build("resnet18-imagenet", num_classes=4, seed=1)
    own = net.state_dict()
    for name, value in state.items():
        if name != "conv1.weight" and not name.startswith("fc."):
            assert torch.equal(own[name], value), name
    assert torch.equal(own["conv1.weight"], resnet_room.shrink_filters(state["conv1.weight"]))
    assert own["fc.weight"].shape == (4, 512)
    assert net.normalisation == (resnet_room.IMAGENET_MEAN, resnet_room.IMAGENET_STD)
    # On an even image the shrunk stem answers as the original does, away from the padded border.
    grey = torch.full((1, 3, 32, 32), 0.7)
    original = nn.functional.conv2d(grey, state["conv1.weight"], padding=3)[..., 16, 16]
    torch.testing.assert_close(net.conv1(grey)[..., 16, 16], original, rtol=1e-3, atol=1e-4)


def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    def offline(*_args: object, **_kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(DataError, match="no network") as refused:
        build("resnet18-imagenet")
    assert "efficientnet-lite0" in str(refused.value)


def test_a_torchvision_that_does_not_fit_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match="torchvision cannot be imported"):
        build("resnet18")
    build("resnet8")  # the rest does without


NARROW = """
import torch
from scaletut.models import build
torch.set_num_threads(1)
net = build("resnet8", width=0.25, seed=0).to(memory_format=torch.channels_last).train()
for _ in range(20):
    images = torch.rand(16, 3, 32, 32).to(memory_format=torch.channels_last)
    net(images).sum().backward()
print("alive")
"""


def test_a_narrow_residual_net_trains_in_channels_last() -> None:
    """In a process of its own: the strided 1x1 convolution that it must not use kills the process."""
    run = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "alive", run.stderr[-500:]


def test_a_projection_is_the_strided_convolution() -> None:
    ours = Projection(4, 8, 2)
    torchs = torch.nn.Conv2d(4, 8, 1, stride=2, bias=False)
    torchs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 4, 9, 9)
    assert torch.allclose(ours(images), torchs(images), atol=1e-6)
