"""Distillation: the loss is the paper's, the teacher stays what it is, the student follows it."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scaletut.compress import Distillation, fit_student, soft_loss
from scaletut.compress.distil import attention_distance, attention_map
from scaletut.data import ImageSet, load
from scaletut.errors import ParameterError
from scaletut.models import build
from scaletut.train import Recipe, execution, fit, predict, training_flops
from scaletut.train.checkpoint import CheckpointError
from scaletut.train.loop import backward

RECIPE = Recipe(epochs=2, batch_size=64, lr=0.05, precision="fp32")


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return load("zipf10", n_train=256, n_test=50).train


def net(seed: int = 0) -> nn.Module:
    return build("resnet8", width=0.5, seed=seed)


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], its[name]) for name in its)


def test_the_soft_loss_by_hand() -> None:
    mine, its, temperature = torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([[2.0, 0.0, -3.0]]), 4.0
    p = [math.exp(x / temperature) for x in its[0].tolist()]
    q = [math.exp(x / temperature) for x in mine[0].tolist()]
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    expected = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert soft_loss(mine, its, temperature).item() == pytest.approx(expected, rel=1e-5)
    assert soft_loss(its, its, temperature).item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_the_soft_part_does_not_fall_with_the_temperature() -> None:
    """For high T it tends to (logits - teacher's logits) / K, both centred (Hinton et al. 2015, equation 4)."""
    torch.manual_seed(0)
    mine, its = torch.randn(1, 10, requires_grad=True), torch.randn(1, 10)
    soft_loss(mine, its, 1000.0).backward()
    expected = ((mine - mine.mean()) - (its - its.mean())) / 10
    assert torch.allclose(mine.grad, expected, atol=2e-3)


def test_weight_nought_is_the_labels_alone(data: ImageSet) -> None:
    alone = fit(net(), data, RECIPE, 0).model
    taught = fit_student(net(), data, RECIPE, 0, Distillation(net(5), weight=0.0)).model
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(alone.parameters(), taught.parameters(), strict=True))


def test_the_student_follows_the_teacher_and_the_teacher_stays(data: ImageSet) -> None:
    """A teacher that learned wrong labels: by the soft part alone the student learns these, not those that it has."""
    wrong = replace(data, labels=(data.labels + 1) % 10, truth=None)
    recipe = replace(RECIPE, epochs=8, lr=0.1)
    teacher = fit(net(7), wrong, recipe, 0).model.train()
    before = copy.deepcopy(teacher)
    result = fit_student(net(), data, recipe, 0, Distillation(teacher, weight=1.0))
    assert same(teacher, before)
    assert teacher.training
    said = result.predict(data).argmax(1)
    assert np.mean(said == wrong.labels) > 2 * np.mean(said == data.labels)
    assert np.mean(said == predict(teacher, data, result.normalisation).argmax(1)) > 0.5


def test_micro_batches_give_the_same_student(data: ImageSet) -> None:
    """The objective is a mean over images, so its parts add up."""
    torch.manual_seed(0)
    images, labels = torch.randn(24, 3, 32, 32), torch.arange(24) % 10
    objective = Distillation(net(3))
    found = []
    for micro_batch in (0, 10):
        student = net().eval()  # no statistics of a batch
        how = replace(execution("cpu", "fp32"), micro_batch=micro_batch)
        loss, _ = backward(student, images, labels, RECIPE, how, objective=objective)
        found.append((loss, student.fc.weight.grad))
    (one, first), (other, second) = found
    assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(first, second, atol=1e-5)


def test_shares_of_classes_and_smoothing_are_the_labels_part() -> None:
    torch.manual_seed(0)
    images, logits = torch.randn(4, 3, 32, 32), torch.randn(4, 10)
    shares = torch.full((4, 10), 0.1)
    objective = Distillation(net(), weight=0.0, label_smoothing=0.1)
    assert objective(images, logits, shares).item() == pytest.approx(F.cross_entropy(logits, shares).item(), rel=1e-6)


def test_attention_maps_are_compared_whatever_the_widths_and_sides() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 6, 8, 8)
    assert torch.allclose(attention_map(features).flatten(1).norm(dim=1), torch.ones(2))
    assert attention_distance(features, 3 * features).item() == pytest.approx(0, abs=1e-7)  # size does not count
    assert attention_distance(features, torch.randn(2, 12, 4, 4)).item() > 1e-3


def test_matched_layers_come_nearer(data: ImageSet) -> None:
    teacher, before = net(7).eval(), net().eval()
    objective = Distillation(teacher, weight=0.0, match={"stage2": "stage2"})
    after = fit_student(net(), data, Recipe(epochs=4, batch_size=64, lr=0.02, precision="fp32"), 0, objective).model
    images = torch.tensor(data.images[:64]).permute(0, 3, 1, 2).float() / 127.5 - 1

    def distance(student: nn.Module) -> float:
        seen = {}
        for name, one in (("teacher", teacher), ("student", student)):
            one.stage2.register_forward_hook(lambda _m, _i, output, name=name: seen.__setitem__(name, output))
            one(images)
        return attention_distance(seen["student"], seen["teacher"]).item()

    assert distance(after) < 0.5 * distance(before)
    assert not objective._seen


def test_what_is_refused() -> None:
    for wrong in ({"temperature": 0}, {"weight": 1.5}, {"label_smoothing": 1.0}, {"match": {"stage1": "stage9"}}):
        with pytest.raises(ParameterError):
            Distillation(net(), **wrong)
    images, labels = torch.zeros(2, 3, 32, 32), torch.tensor([0, 1])
    with pytest.raises(ParameterError, match="same classes"):
        Distillation(build("resnet8", width=0.5, num_classes=4))(images, torch.zeros(2, 10), labels)
    with pytest.raises(ParameterError, match="fit_student"):
        Distillation(net(), match={"stage1": "stage1"})(images, torch.zeros(2, 10), labels)


def test_the_teachers_flops_are_counted(data: ImageSet) -> None:
    teacher = net()
    forward = Distillation(teacher).flops(32)
    assert 0.3 < forward / training_flops(teacher, 32) < 0.4  # a third, less the first layer's missing gradient
    recipe = Recipe(epochs=1, batch_size=64, precision="fp32")
    alone, taught = (fit(net(), data, recipe, 0, objective=one) for one in (None, Distillation(teacher)))
    assert taught.flops - alone.flops == pytest.approx(256 * forward)


def test_a_checkpoint_belongs_to_its_objective(data: ImageSet, tmp_path: Path) -> None:
    """Resumed with the same teacher it ends with the same weights; with another it is refused."""

    def stop(progress) -> None:
        if progress.step == 5:
            raise KeyboardInterrupt

    file, objective = tmp_path / "run.pt", Distillation(net(3))
    whole = fit(net(), data, RECIPE, 0, objective=objective).model
    with pytest.raises(KeyboardInterrupt):
        fit(net(), data, RECIPE, 0, objective=objective, checkpoint=file, progress=stop)
    for other in (None, Distillation(net(4)), Distillation(net(3), weight=0.5)):
        with pytest.raises(CheckpointError):
            fit(net(), data, RECIPE, 0, objective=other, checkpoint=file)
    assert same(fit(net(), data, RECIPE, 0, objective=Distillation(net(3)), checkpoint=file).model, whole)
    with pytest.raises(ParameterError, match="key"):
        fit(net(), data, RECIPE, 0, objective=lambda images, logits, labels: logits.sum(), checkpoint=file)
