"""Networks from images or vectors to features."""

from .barlow_twins import BarlowTwins
from .identity import Identity
from .mlp import MLP
from .resnet import ResNet
from .resnet_cifar import CIFARResNet
from .small_cnn import SmallCNN
from .vgg import VGG

__all__ = ["MLP", "VGG", "BarlowTwins", "CIFARResNet", "Identity", "ResNet", "SmallCNN"]
