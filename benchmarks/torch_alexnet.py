"""The two PyTorch AlexNets that are profiles here, in PyTorch: references and peers in speed.

Modules with the structure, and so the names in a state_dict, of torchvision's `alexnet` (profile
"owt") and of dansuh17/alexnet-pytorch (profile "seed"), written anew from the table of facts.
The port's dropout is in place, which on PyTorch 2.13 overwrites what ReLU kept for the backward
pass and stops it; torchvision's ReLUs are in place too. Here nothing is: results are the same.

Needs PyTorch, which is no requirement of the project: tests begin with
`pytest.importorskip("torch")`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

_POOL5_PIXELS = 6 * 6
_CLASSIFIER = ("drop6", "fc6", "relu6", "drop7", "fc7", "relu7", "fc8")


class OwtAlexNet(nn.Module):
    """torchvision.models.AlexNet: network input [B, 3, 224, 224] -> logits [B, classes]."""

    # Layer names of this project, in the order of the modules.
    SEQUENCES: Mapping[str, Sequence[str]] = {
        "features": (
            *("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3"),
            *("conv4", "relu4", "conv5", "relu5", "pool5"),
        ),
        "classifier": _CLASSIFIER,
    }

    def __init__(
        self,
        classes: int = 1000,
        filters: Sequence[int] = (64, 192, 384, 256, 256),
        units: Sequence[int] = (4096, 4096),
    ):
        super().__init__()
        conv = _convolutions(filters, conv1_padding=2)
        self.features = nn.Sequential(
            *(conv[0], nn.ReLU(), _pool()),
            *(conv[1], nn.ReLU(), _pool()),
            *(conv[2], nn.ReLU()),
            *(conv[3], nn.ReLU()),
            *(conv[4], nn.ReLU(), _pool()),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))  # of 6x6 pixels: changes nothing
        self.classifier = _classifier(classes, filters[-1], units)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class SeedAlexNet(nn.Module):
    """dansuh17's AlexNet: network input [B, 3, 227, 227] -> logits [B, classes].

    Starts as the port does: kernels of convolutions from a normal distribution, biases of conv2,
    conv4 and conv5 at 1, and the rest of the dense layers as PyTorch has it.
    """

    SEQUENCES: Mapping[str, Sequence[str]] = {
        "net": (
            *("conv1", "relu1", "lrn1", "pool1", "conv2", "relu2", "lrn2", "pool2"),
            *("conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5"),
        ),
        "classifier": _CLASSIFIER,
    }

    def __init__(
        self,
        classes: int = 1000,
        filters: Sequence[int] = (96, 256, 384, 384, 256),
        units: Sequence[int] = (4096, 4096),
    ):
        super().__init__()
        conv = _convolutions(filters, conv1_padding=0)
        self.net = nn.Sequential(
            *(conv[0], nn.ReLU(), _lrn(), _pool()),
            *(conv[1], nn.ReLU(), _lrn(), _pool()),
            *(conv[2], nn.ReLU()),
            *(conv[3], nn.ReLU()),
            *(conv[4], nn.ReLU(), _pool()),
        )
        self.classifier = _classifier(classes, filters[-1], units)
        for layer, bias in zip(conv, (0.0, 1.0, 0.0, 1.0, 1.0), strict=True):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.classifier(torch.flatten(self.net(x), 1))


# By the name of the profile that each is.
NETWORKS: Mapping[str, type[nn.Module]] = {"owt": OwtAlexNet, "seed": SeedAlexNet}


def _convolutions(filters: Sequence[int], conv1_padding: int) -> list[nn.Conv2d]:
    return [
        nn.Conv2d(3, filters[0], 11, stride=4, padding=conv1_padding),
        nn.Conv2d(filters[0], filters[1], 5, padding=2),
        nn.Conv2d(filters[1], filters[2], 3, padding=1),
        nn.Conv2d(filters[2], filters[3], 3, padding=1),
        nn.Conv2d(filters[3], filters[4], 3, padding=1),
    ]


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2)


def _lrn() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)  # divides alpha by 5


def _classifier(classes: int, maps: int, units: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Dropout(0.5), nn.Linear(maps * _POOL5_PIXELS, units[0]), nn.ReLU()),
        *(nn.Dropout(0.5), nn.Linear(units[0], units[1]), nn.ReLU()),
        nn.Linear(units[1], classes),
    )


def parameter_prefixes(network: OwtAlexNet | SeedAlexNet) -> dict[str, str]:
    """Layer with weights -> what its names in the state_dict begin with: "conv1": "features.0"."""
    return {
        layer: f"{sequence}.{index}"
        for sequence, layers in network.SEQUENCES.items()
        for index, layer in enumerate(layers)
        if layer.startswith(("conv", "fc"))
    }


def set_weights(network: OwtAlexNet | SeedAlexNet, weights: Mapping[str, np.ndarray]) -> None:
    """Give the network the weights of a Keras one: "conv1/kernel" ... "fc8/bias"."""
    state = {}
    for layer, prefix in parameter_prefixes(network).items():
        kernel = weights[f"{layer}/kernel"]
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        elif layer == "fc6":  # from rows of height, width, channels to columns of C, H, W
            kernel = kernel.reshape(6, 6, -1, kernel.shape[-1]).transpose(3, 2, 0, 1)
            kernel = kernel.reshape(len(kernel), -1)
        else:
            kernel = kernel.T
        state[f"{prefix}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
        state[f"{prefix}.bias"] = torch.from_numpy(weights[f"{layer}/bias"])
    network.load_state_dict(state)


def gradients(network: OwtAlexNet | SeedAlexNet) -> dict[str, np.ndarray]:
    """Return the gradients after a backward pass, in the names and shapes of Keras' weights."""
    result = {}
    for layer, prefix in parameter_prefixes(network).items():
        module = network.get_submodule(prefix)
        kernel = module.weight.grad.numpy()
        if kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)
        elif layer == "fc6":
            kernel = kernel.reshape(len(kernel), -1, 6, 6).transpose(2, 3, 1, 0)
            kernel = kernel.reshape(-1, kernel.shape[-1])
        else:
            kernel = kernel.T
        result[f"{layer}/kernel"] = kernel
        result[f"{layer}/bias"] = module.bias.grad.numpy()
    return result


def layer_outputs(network: OwtAlexNet | SeedAlexNet, x: np.ndarray) -> dict[str, np.ndarray]:
    """Layer name -> output for network input [B, H, W, 3], maps as [B, H, W, C].

    In the mode that the network is in: call `network.eval()` for inference.
    """
    outputs = {}

    def keep(layer: str):
        def hook(module, inputs, output):
            del module, inputs
            y = output.detach().numpy()
            if layer == "drop6":  # its input is pool5, flattened in the order C, H, W
                y = y.reshape(len(y), -1, 6, 6).transpose(0, 2, 3, 1).reshape(len(y), -1)
            outputs[layer] = y.transpose(0, 2, 3, 1) if y.ndim == 4 else y

        return hook

    hooks = [
        network.get_submodule(f"{sequence}.{index}").register_forward_hook(keep(layer))
        for sequence, layers in network.SEQUENCES.items()
        for index, layer in enumerate(layers)
    ]
    with torch.no_grad():
        network(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
    for hook in hooks:
        hook.remove()
    return outputs
