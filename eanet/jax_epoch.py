"""A training epoch on JAX's accelerator as one program: augmentation, teacher, student and optimizer.

A step of this model takes a GPU a few milliseconds, about as long as Python takes to launch it. Here `jax.lax.scan` runs the
steps of an epoch; the host only draws the random numbers (`Batches.draws`), those of the next epoch during this one.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import keras
import numpy as np

from eanet.data.augmentation import Batches, augment


def runs_whole_epochs(model, batches: Batches) -> bool:
    """Return whether `EpochRunner` can train this model here: on an accelerator that holds the images."""
    on_accelerator = keras.backend.backend() == "jax" and jax.default_backend() != "cpu"
    return on_accelerator and batches.on_device and model.dtype_policy.name != "mixed_float16"  # it scales the loss


class EpochRunner:
    """The compiled epochs of one run.

    Args:
        model: compiled by `eanet.trainer.compile_model`.
        batches: of the training images.
        teacher: from `eanet.distillation.load_teacher`, or None.
    """

    def __init__(self, model, batches: Batches, teacher=None):
        self.model, self.batches = model, batches
        arrays = batches.images, batches.device_labels, batches.targets
        steps = functools.partial(_steps, model, teacher, batches.class_weights)
        self._train = jax.jit(steps, donate_argnums=0)
        self._norms = jax.jit(functools.partial(_batch_statistics, model))
        taught = [*teacher.trainable_variables, *teacher.non_trainable_variables] if teacher else []
        self._arrays, self._teacher = arrays, [v.value for v in taught]
        self._ahead: dict = {}  # what `_draws` returned, by its arguments

    def train(self, epoch: int, cutmix: float, following: int) -> tuple[float, float]:
        """Train on the images of an epoch and return the means of loss and accuracy over its batches.

        Those of the epoch `following` are drawn while the device works.
        """
        model = self.model
        draws = self._ahead.pop((epoch, cutmix), None) or self._draws(epoch, cutmix)
        variables = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
        state, means = self._train([[v.value for v in each] for each in variables], self._teacher, self._arrays, draws)
        self._ahead = {(following, cutmix): self._draws(following, cutmix)}  # while the device works
        for each, values in zip(variables, state, strict=True):
            for variable, value in zip(each, values, strict=True):
                variable.assign(value)
        loss, accuracy = map(float, means)
        return loss, accuracy

    def recalibrate_batch_norm(self, epoch: int, count: int) -> None:
        """Do what `eanet.trainer.recalibrate_batch_norm` does, after `reseed_dropout`."""
        draws = self._draws(epoch, 0.0, count)
        state = [[v.value for v in each] for each in (self.model.trainable_variables, self.model.non_trainable_variables)]
        for variable, value in zip(_moving(self.model), self._norms(state, self._arrays, draws), strict=True):
            variable.assign(value)

    def _draws(self, epoch: int, cutmix: float, count: int | None = None) -> dict[str, np.ndarray]:
        draws = list(itertools.islice(self.batches.draws(epoch, cutmix), count))
        return {key: np.stack([draw[key] for draw in draws]) for key in draws[0]}


def _steps(model, teacher, class_weights, state, teacher_state, arrays, draws):
    """Run the steps of `draws` and return the new state and the means of loss and accuracy."""
    optimizer, losses_of = model.optimizer, getattr(model.loss, "call", model.loss)  # one per image
    count = len(teacher.trainable_variables) if teacher else 0

    def loss_of(trainable, fixed, x, y, targets, weights):
        probabilities, fixed = model.stateless_call(trainable, fixed, x, training=True)
        losses = losses_of(targets, probabilities)
        return jnp.mean(losses if weights is None else losses * weights), (probabilities, fixed)

    def step(state, draw):
        trainable, fixed, optimizer_state = state
        x, y = augment(jnp, *arrays, draw)
        x, targets = x.astype("float32"), y
        weights = None if class_weights is None else y @ class_weights
        if teacher:
            taught, _ = teacher.stateless_call(teacher_state[:count], teacher_state[count:], x, training=False)
            targets = jnp.stack([y, taught.astype("float32")], axis=1)
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (probabilities, fixed)), gradients = gradient(trainable, fixed, x, y, targets, weights)
        trainable, optimizer_state = optimizer.stateless_apply(optimizer_state, gradients, trainable)
        right = (probabilities.argmax(axis=-1) == y.argmax(axis=-1)).mean(dtype="float32")
        return [trainable, fixed, optimizer_state], (loss, right)

    state, rows = jax.lax.scan(step, state, draws)
    return state, tuple(row.mean() for row in rows)


def _moving(model) -> list:
    """Return the moving means and variances of the model's batch norms."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [variable for norm in norms for variable in (norm.moving_mean, norm.moving_variance)]


def _batch_statistics(model, state, arrays, draws):
    """Return the mean over the batches of `draws` of what each batch norm sees, in the order of `_moving`."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    names = [variable.path for variable in model.non_trainable_variables]
    places = [names.index(variable.path) for variable in _moving(model)]
    momenta = [norm.momentum for norm in norms]

    trainable, fixed = state

    def step(carry, draw):
        sums, fixed = carry  # with the state of the dropouts
        x, _ = augment(jnp, *arrays, draw)
        _, fixed = model.stateless_call(trainable, fixed, x.astype("float32"), training=True)
        return ([total + fixed[place] for total, place in zip(sums, places, strict=True)], fixed), None

    try:
        for norm in norms:
            norm.momentum = 0.0  # the moving statistics become those of the batch
        zeros = [jnp.zeros_like(variable.value) for variable in _moving(model)]
        (sums, _), _ = jax.lax.scan(step, (zeros, fixed), draws)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return [total / len(draws["index"]) for total in sums]
