"""Checkpoints of a model in training: written from it, and restored into it."""

import keras

from keras_alexnet import columns
from keras_alexnet.network import keras_compat
from keras_alexnet.training import checkpoints, schedules, update_rules
from keras_alexnet.training.checkpoints import Checkpoint, RunState


class RunWriter:
    """A writer of checkpoints of one model.

    Args:
        workdir: the run's folder.
        network: the AlexNet inside of the model.
        model: that is trained, its optimizer built.
        plateau: the policy whose state must survive, or None.
        keep: how many of the last checkpoints stay.
    """

    def __init__(
        self,
        workdir: str,
        network: keras.Model,
        model: keras.Model,
        plateau: schedules.Plateau | None,
        keep: int,
    ) -> None:
        self._workdir = workdir
        self._network = network
        self._model = model
        self._plateau = plateau
        self._keep = keep

    def write(self, state: RunState) -> None:
        """Write a checkpoint of the state.

        Raises:
            OSError: it cannot be written, because the disk is full, say.
        """
        checkpoint = Checkpoint(
            state=state,
            weights=columns.read_weights(self._network),
            averages=self._averages(),
            optimizer=[variable.numpy() for variable in self._optimizer_state()],
            schedule=self._plateau.state if self._plateau else None,
        )
        try:
            checkpoints.write(self._workdir, checkpoint, self._keep)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint after {state.place.epoch} epochs and {state.place.step} steps "
                f"cannot be written ({error.strerror or error}); the one before is whole: make "
                "room and run the same command again",
                self._workdir,
            ) from error

    def restore(self, checkpoint: Checkpoint) -> None:
        """Set everything that decides the next step to what it was.

        Raises:
            ValueError: the checkpoint does not fit the model.
        """
        columns.assign_weights(self._network, checkpoint.weights)
        variables = self._optimizer_state()
        shapes = [tuple(variable.shape) for variable in variables]
        found = [array.shape for array in checkpoint.optimizer]
        if shapes != found:
            raise ValueError(
                f"an optimizer with {len(found)} variables is needed to go on from the checkpoint "
                f"in {self._workdir}, but the flags make another, with {len(shapes)}; go on with "
                f"the flags of the run's flags.txt"
            )
        for variable, value in zip(variables, checkpoint.optimizer, strict=True):
            variable.assign(value)
        if self._plateau and checkpoint.schedule:
            self._plateau.state = checkpoint.schedule

    def _optimizer_state(self) -> list:
        return keras_compat.optimizer_state(self._model.optimizer)

    def _averages(self) -> dict[str, object]:
        averages = update_rules.averages_of(self._model.optimizer)
        if not averages:
            return {}
        return columns.named_values(self._network, self._model.trainable_variables, averages)
