"""Networks by name, what they cost, and how to adapt them to a new task.

`scaletut.models.features` and `efficientnet_lite0` need the extra `transfer`; nothing else here does.
"""

from scaletut.models.adapters import MODES, LoRA, Mode, adapt, merge, trainable_parameters
from scaletut.models.build import NetSpec, build, count_parameters, names
from scaletut.models.complexity import Complexity, Layer, LayerTime, complexity, time_layers
from scaletut.models.plain import TutorialNet
from scaletut.models.pretrained import EfficientNetLite0, efficientnet_lite0, features
from scaletut.models.resnet import BasicBlock, CifarResNet, resnet18
from scaletut.models.surgery import changed_layers, rebuild
from scaletut.models.weights import load_weights, read_manifest, save_weights

__all__ = [
    "MODES",
    "BasicBlock",
    "CifarResNet",
    "Complexity",
    "EfficientNetLite0",
    "Layer",
    "LayerTime",
    "LoRA",
    "Mode",
    "NetSpec",
    "TutorialNet",
    "adapt",
    "build",
    "changed_layers",
    "complexity",
    "count_parameters",
    "efficientnet_lite0",
    "features",
    "load_weights",
    "merge",
    "names",
    "read_manifest",
    "rebuild",
    "resnet18",
    "save_weights",
    "time_layers",
    "trainable_parameters",
]
