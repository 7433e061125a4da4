"""The guard against a loss that is not a number any more."""

import math
from collections.abc import Mapping

import keras

from data_prep.command_line import UserError


class StopWhenNotFinite(keras.callbacks.Callback):
    """Ends the run, with its step and rate, when the loss is not a number any more."""

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        """Looks at the loss, which Keras has fetched from the device anyway."""
        if not math.isfinite(logs["loss"]):
            optimizer = self.model.optimizer
            raise UserError(
                f"the loss became {logs['loss']} at step {int(optimizer.iterations.numpy())} "
                f"with learning rate {float(optimizer.learning_rate.numpy()):g}; the last "
                f"checkpoint is whole: lower --learning_rate in a new --workdir"
            )
