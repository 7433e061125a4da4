"""AlexNet of 2012 in TensorFlow and Keras.

from keras_alexnet import AlexNet, PROFILES, decode_predictions
model = AlexNet(profile="paper", classes=1000)
"""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_alexnet.inputs.preprocessing import preprocess_input
    from keras_alexnet.network.model import AlexNet
    from keras_alexnet.network.predictions import decode_predictions
    from keras_alexnet.network.profile import Profile
    from keras_alexnet.network.profiles import PROFILES

__all__ = ["PROFILES", "AlexNet", "Profile", "decode_predictions", "preprocess_input"]

_MODULES = {
    "AlexNet": "keras_alexnet.network.model",
    "PROFILES": "keras_alexnet.network.profiles",
    "Profile": "keras_alexnet.network.profile",
    "decode_predictions": "keras_alexnet.network.predictions",
    "preprocess_input": "keras_alexnet.inputs.preprocessing",
}

# Both are read when TensorFlow and Keras start, so they have to be set before that; what the user
# has set stays. The layers are TensorFlow's, whatever ~/.keras/keras.json says.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# 1 hides notes on CPU instructions. The rest of what TensorFlow says on a machine without a GPU
# either ignores this setting or needs 3, which would hide the errors of a machine with one.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")


def __getattr__(name: str) -> object:
    # Not imports at the top: TensorFlow takes seconds to load, and this file runs before each
    # module of the package, the serving client and every `--help` included.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
