"""Checkpoints of a model in training: written from it, and restored into it."""

import dataclasses

import keras

from keras_alexnet import columns
from keras_alexnet.network import keras_compat
from keras_alexnet.training import checkpoints, schedules, update_rules
from keras_alexnet.training.checkpoints import Checkpoint, RunState


@dataclasses.dataclass(frozen=True)
class RunWriter:
    """A writer of checkpoints of one model.

    Attributes:
        workdir: the run's folder.
        network: the AlexNet inside the model.
        model: the model that is trained, its optimizer built.
        plateau: the schedule whose state must survive, or None.
        keep: number of the last checkpoints to keep.
    """

    workdir: str
    network: keras.Model
    model: keras.Model
    plateau: schedules.Plateau | None
    keep: int

    def write(self, state: RunState) -> None:
        """Write a checkpoint of the state.

        Raises:
            OSError: it cannot be written, because the disk is full, say.
        """
        network, trained = self.network, self.model.trainable_variables
        averages = update_rules.averages_of(self.model.optimizer)
        checkpoint = Checkpoint(
            state=state,
            weights=columns.read_weights(network),
            averages=columns.named_values(network, trained, averages) if averages else {},
            optimizer=[variable.numpy() for variable in self._optimizer_state()],
            schedule=self.plateau.state if self.plateau else None,
        )
        try:
            checkpoints.write(self.workdir, checkpoint, self.keep)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint after {state.place.epoch} epochs and {state.place.step} steps "
                f"cannot be written ({error.strerror or error}); the one before is whole: make "
                "room and run the same command again",
                self.workdir,
            ) from error

    def restore(self, checkpoint: Checkpoint) -> None:
        """Set everything that decides the next step to what it was.

        Raises:
            ValueError: the checkpoint does not fit the model.
        """
        columns.assign_weights(self.network, checkpoint.weights)
        variables = self._optimizer_state()
        shapes = [tuple(variable.shape) for variable in variables]
        found = [array.shape for array in checkpoint.optimizer]
        if shapes != found:
            raise ValueError(
                f"an optimizer with {len(found)} variables is needed to go on from the checkpoint "
                f"in {self.workdir}, but the flags make another, with {len(shapes)}; go on with "
                f"the flags of the run's flags.txt"
            )
        for variable, value in zip(variables, checkpoint.optimizer, strict=True):
            variable.assign(value)
        if self.plateau and checkpoint.schedule:
            self.plateau.state = checkpoint.schedule

    def _optimizer_state(self) -> list:
        return keras_compat.optimizer_state(self.model.optimizer)
