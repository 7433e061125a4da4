"""PyTorch's checkpoints: of torchvision's alexnet, and of the port that this project began from.

How the formats were learned: torchvision/models/alexnet.py for the names (features.0 ... 10,
classifier.1, 4, 6); model.py of dansuh17/alexnet-pytorch for its names (net.0 ... 12, classifier.1,
4, 6), for what it saves after each epoch (a dictionary of epoch, total_steps, optimizer, model and
seed) and for DataParallel, which puts "module." before each name. PyTorch's documentation says
that torch.nn.Conv2d keeps [out, in / groups, height, width] and Linear [out, in]; both networks
flatten maps, height, width. The colours are R, G, B.

A checkpoint is a pickle. It is read by torch.load(weights_only=True), which builds tensors and
plain containers and refuses all else; what it refuses is not read in another way.
"""

import io
import re
import zipfile
from collections.abc import Mapping

import numpy as np

from data_prep import restricted_pickle
from keras_alexnet.foreign_weights.fitting import shown, shown_list
from keras_alexnet.foreign_weights.layouts import MAPS_FIRST, ForeignNetwork, weight_names

ZIP_MAGIC = b"PK\x03\x04"  # torch.save since PyTorch 1.6
# Before, pickles one after the other: a number that says so, a version, facts about the machine,
# the object, and the storages' keys, behind which are the numbers.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_LEGACY_PICKLES = 5

_CLASSIFIER = tuple(f"classifier.{index}" for index in (1, 4, 6))
# Names of the weights, and what the modules between conv1 and conv2, conv2 and conv3 are.
_NETWORKS = tuple(
    (
        weight_names((*(f"{part}.{index}" for index in indices), *_CLASSIFIER), ".weight", ".bias"),
        {"conv1": order, "conv2": order, "conv5": ("relu", "pool")},
    )
    for part, indices, order in (
        ("features", (0, 3, 6, 8, 10), ("relu", "pool")),  # torchvision
        ("net", (0, 4, 8, 10, 12), ("relu", "lrn", "pool")),  # the port
    )
)
_STATE_KEYS = ("model", "state_dict")  # where a training program's dictionary has the weights
_PARALLEL_PREFIX = "module."


def read(path: str) -> ForeignNetwork:
    """Return the tensors of a state_dict, or of a training program's dictionary that has one.

    Args:
        path: a file that torch.save wrote.

    Raises:
        ValueError: PyTorch is not installed; or the file is damaged, holds anything but plain
            containers and tensors, or no state_dict of floating numbers.
    """
    try:
        import torch  # an optional extra of the project
    except ImportError as error:
        raise ValueError(
            f"PyTorch is needed to read {path}, and is not installed: pip install .[torch]"
        ) from error
    size = _require_plain_file(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what PyTorch raises at a damaged file is of no one type
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it names {shown(name[1])}" if name else f"it is damaged ({type(error).__name__})"
        raise ValueError(
            f"{path}: a file of nothing but tensors and plain containers is needed, as torch.save("
            f"model.state_dict(), ...) writes it; PyTorch's weights_only loader refuses it: {what}"
        ) from error
    state, left_out = _state_dict(loaded, path)
    if all(name.startswith(_PARALLEL_PREFIX) for name in state):
        state = {name.removeprefix(_PARALLEL_PREFIX): value for name, value in state.items()}
    tensors = {}
    for name, value in state.items():
        if (
            not isinstance(value, torch.Tensor)
            or value.layout != torch.strided
            or value.device.type != "cpu"
            or value.dtype not in (torch.float16, torch.float32, torch.float64)
        ):
            kind = getattr(value, "dtype", type(value).__name__)
            raise ValueError(
                f"{path}: {shown(name)} must be a dense tensor of float16, float32 or float64; it "
                f"is {kind}; save model.float().state_dict()"
            )
        # A tensor may show one number of the file many times; what is larger than the file does.
        size -= value.numel() * value.element_size()
        if size < 0:
            raise ValueError(
                f"{path}: tensors no larger than the file are needed; {shown(name)} is larger than "
                "what is left of it; save model.state_dict() again"
            )
        tensors[name] = np.ascontiguousarray(value.detach().resolve_neg().numpy())
    names, orders = max(_NETWORKS, key=lambda known: sum(n in tensors for n in known[0].values()))
    return ForeignNetwork(tensors, names, MAPS_FIRST, orders, left_out=left_out)


def _state_dict(loaded: object, path: str) -> tuple[dict[str, object], list[str]]:
    """Return the state_dict, and the names of everything beside it."""
    left_out: list[str] = []
    if isinstance(loaded, Mapping):
        for key in _STATE_KEYS:
            if isinstance(loaded.get(key), Mapping):
                left_out = [other for other in loaded if isinstance(other, str) and other != key]
                loaded = loaded[key]
                break
    if not isinstance(loaded, Mapping) or not all(isinstance(name, str) for name in loaded):
        held = shown_list(loaded) if isinstance(loaded, Mapping) else type(loaded).__name__
        raise ValueError(
            f"{path}: a state_dict is needed, alone or as the entry {' or '.join(_STATE_KEYS)} of "
            f"a dictionary; it holds: {held}; save model.state_dict()"
        )
    return dict(loaded), left_out


def _require_plain_file(path: str) -> int:
    """Refuse a file that would cost much more memory than it has bytes; return its size."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(len(LEGACY_MAGIC))
        file.seek(0)
        if not start.startswith(ZIP_MAGIC):
            if start != LEGACY_MAGIC:
                raise ValueError(
                    f"{path}: a file that torch.save wrote is needed; these bytes begin as none "
                    "does; get it again, or state the format"
                )
            for _ in range(_LEGACY_PICKLES):
                restricted_pickle.check_size(file, size, path)
            return size
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                unpacked = sum(entry.file_size for entry in entries)
                pickles = [
                    archive.read(entry)
                    for entry in entries
                    if unpacked <= size and entry.filename.endswith("/data.pkl")
                ]
        # zipfile has an error of its own, and lets others through.
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
            raise ValueError(
                f"{path}: a whole file of torch.save is needed; its zip archive is damaged; get it "
                "again"
            ) from error
    if unpacked > size:
        raise ValueError(
            f"{path}: a file of torch.save, which compresses nothing, is needed; this archive says "
            f"that it unpacks to more than its {size} bytes; get it again"
        )
    for pickled in pickles:
        restricted_pickle.check_size(io.BytesIO(pickled), len(pickled), path)
    return size
