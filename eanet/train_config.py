"""The options of a training run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from eanet.data.policy import POLICIES
from modeling_eanet import RESIZES, EANetConfig, UserError

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
FREEZE = ("backbone", "none")
# Options that must match to resume a run, in the order in which they are recorded.
RECIPE_FIELDS = (
    *("preset", "epochs", "batch_size", "seed", "validation_split", "learning_rate", "weight_decay"),
    *("warmup_epochs", "label_smoothing", "cutmix", "ema", "precision", "init_from", "set"),
)
# Recorded only when used, so that runs of versions without these options can be resumed.
OPTIONAL_RECIPE_FIELDS = (
    *("image_column", "label_column", "class_weights", "teacher", "distill", "distill_temperature"),
    *("teacher_epochs", "image_size", "resize", "freeze", "augment"),
)
# Options that follow the data where they are None, each in view of those before it; see TrainConfig.resolved.
AUTOMATIC_FIELDS = ("learning_rate", "batch_size", "epochs", "warmup_epochs", "ema")
# Of a run with a teacher; without one they are None.
DISTILL_DEFAULTS = {"distill": 0.9, "distill_temperature": 1.5}


def _is_int(value, low, high=math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < high


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def default_ema(steps: int) -> float:
    """Return the EMA momentum of a run: 0.998, or less in one of under 10,000 steps.

    The average starts at the initial weights, and a short run must forget them early. 0 saves the last weights.
    """
    return min(0.998, max(0.0, 1 - 20 / steps))


def cutmix_epochs(epochs: int) -> int:
    """Return how many epochs of a run have CutMix: all but the last tenth, at least one."""
    return epochs - max(1, epochs // 10)


def source_epoch(epoch: int, epochs: int, teacher_epochs: int | None) -> int:
    """Return the epoch whose augmented images `epoch` sees, both counted from 0.

    That is `epoch` itself, or with `teacher_epochs` one of so many at the start, which are repeated in turn until the last
    tenth of the epochs: these have no CutMix, and images of their own.
    """
    return epoch % teacher_epochs if teacher_epochs and epoch < cutmix_epochs(epochs) else epoch


_RULES = (
    ("epochs stop_after batch_size teacher_epochs image_size", lambda v: v is None or _is_int(v, 1),
     "must be an integer, at least 1"),
    ("seed", lambda v: _is_int(v, 0, 2**32), "must be an integer from 0 to 4294967295"),
    ("validation_split label_smoothing", lambda v: _is_number(v) and 0 <= v < 1, "must be a number in [0, 1)"),
    ("ema", lambda v: v is None or _is_number(v) and 0 <= v < 1, "must be a number in [0, 1), or None for the default"),
    ("cutmix", lambda v: _is_number(v) and 0 <= v <= 1, "must be a number in [0, 1]"),
    ("learning_rate", lambda v: v is None or _is_number(v) and v > 0, "must be a number above 0"),
    ("start_timeout", lambda v: _is_number(v) and 0 < v <= 86_400, "must be a number of seconds, above 0, at most 86400"),
    ("weight_decay", lambda v: _is_number(v) and v >= 0, "must be a number, at least 0"),
    ("warmup_epochs", lambda v: v is None or _is_number(v) and v >= 0, "must be a number, at least 0"),
    ("distill", lambda v: v is None or _is_number(v) and 0 <= v <= 1, "must be a number in [0, 1]"),
    ("distill_temperature", lambda v: v is None or _is_number(v) and 0 < v <= 100, "must be a number above 0, at most 100"),
    ("init_from teacher", lambda v: v is None or str(v).strip(), "must be a model folder or a Hub repo id (user/name)"),
    ("precision", lambda v: v in PRECISIONS, f"must be one of {', '.join(PRECISIONS)}"),
    ("resize", lambda v: v is None or v in RESIZES, f"must be one of {', '.join(RESIZES)}"),
    ("freeze", lambda v: v in (None, *FREEZE), f"must be one of {', '.join(FREEZE)}"),
    ("augment", lambda v: v is None or v in POLICIES, f"must be one of {', '.join(POLICIES)}, or None"),
    ("class_weights", lambda v: v in (None, "balanced"), 'must be "balanced", or None for equal weights'),
)  # fmt: skip


@dataclasses.dataclass
class TrainConfig:
    """Options of a training run. An invalid one raises UserError naming it, its value and the valid range."""

    data: str | None = None  # path of a data set, see eanet.data.load_dataset; None to download CIFAR-100
    preset: str | None = None  # architecture, one of PRESETS: "small", unless init_from brings its own
    set: dict | None = None  # changes to fields of the preset's EANetConfig
    init_from: str | None = None  # model folder or Hub repo id with the initial weights
    output: Path = None  # type: ignore[assignment]  # run folder (or text); runs/PRESET, or runs/tuned with init_from
    resume: bool = False  # fail unless there is a run to resume
    freeze: str | None = None  # "backbone": train the classifier only
    image_size: int | None = None  # side of the square input; None for the architecture's
    resize: str | None = None  # how an image becomes a square, one of RESIZES; None for the architecture's
    epochs: int = None  # type: ignore[assignment]  # as for the next, and the three below that are None: see `resolved`
    stop_after: int | None = None  # of these epochs, write the model after this many; the same run can be resumed later
    batch_size: int = None  # type: ignore[assignment]
    seed: int = 0  # of the initial weights, order, augmentation and validation split
    validation_split: float = 0.02  # fraction of the training images
    learning_rate: float = None  # type: ignore[assignment]  # peak; linear warm-up before it, cosine to 0 after it
    weight_decay: float = 0.1  # of AdamW; biases and norms are exempt
    warmup_epochs: float = None  # type: ignore[assignment]
    label_smoothing: float = 0.1
    cutmix: float = 0.5  # fraction of the images; 0 in the last tenth of the epochs
    augment: str | None = None  # an augmentation policy, one of POLICIES, besides crops and flips
    ema: float | None = None  # momentum of the moving average of the weights, which is saved
    precision: str = "float32"
    class_weights: str | None = None  # "balanced": all classes count the same in the loss, whatever their number of images
    teacher: str | None = None  # model folder or Hub repo id to learn from, see eanet.distillation
    # Weight of the teacher in the loss, the labels have the rest; and the temperature of both. 0.9 and 1.5 with a teacher.
    distill: float = None  # type: ignore[assignment]
    distill_temperature: float = None  # type: ignore[assignment]
    teacher_epochs: int | None = None  # see `source_epoch`: later epochs repeat the images of these, and its stored answers
    image_column: str | None = None  # of a table or a Hub data set; None to find it
    label_column: str | None = None
    dataset_name: str | None = None  # for people, in results and on the card; None for that of `data`
    strict: bool = False  # fail if any file of the data is left out
    distribute: bool = False  # train on all devices, of this process or of several: see eanet.distributed
    coordinator: str | None = None  # HOST:PORT of process 0; this and the next two for several processes
    processes: int | None = None
    process_id: int | None = None  # from 0
    start_timeout: float = 45.0  # seconds to wait for the other processes at the start

    def __post_init__(self):
        if self.init_from:
            for name in ("preset", "set"):
                if value := getattr(self, name):
                    raise UserError(f"{name} {value}: not allowed with init_from, which brings its architecture")
        elif self.preset is None:
            self.preset = "small"
        for name, default in {**DISTILL_DEFAULTS, "teacher_epochs": None}.items():
            if self.teacher and getattr(self, name) is None:
                setattr(self, name, default)
            elif not self.teacher and (value := getattr(self, name)) is not None:
                raise UserError(f"{name} {value}: needs a teacher")
        if self.freeze == "none":
            self.freeze = None
        for names, accepts, hint in _RULES:
            for name in names.split():
                if not accepts(getattr(self, name)):
                    raise UserError(f"{name} {getattr(self, name)}: {hint}")
        if self.freeze and not self.init_from:
            raise UserError(f"freeze {self.freeze}: needs initial weights (init_from)")
        if self.distribute and self.teacher_epochs:
            raise UserError(f"teacher_epochs {self.teacher_epochs}: not allowed with distribute; leave one of them out")
        for name in ("coordinator", "processes", "process_id"):
            if not self.distribute and (value := getattr(self, name)) is not None:
                raise UserError(f"{name} {value}: needs distribute")
        if None not in (self.warmup_epochs, self.epochs) and self.warmup_epochs >= self.epochs:
            raise UserError(f"warmup_epochs {self.warmup_epochs}: must be below epochs {self.epochs}")
        if None not in (self.teacher_epochs, self.epochs) and self.teacher_epochs >= (last := cutmix_epochs(self.epochs)):
            raise UserError(
                f"teacher_epochs {self.teacher_epochs}: must be below {last}; of {self.epochs} epochs the others have new "
                "images"
            )
        if None not in (self.stop_after, self.epochs) and self.stop_after > self.epochs:
            raise UserError(f"stop_after {self.stop_after}: must be at most epochs {self.epochs}")
        if self.preset is not None:
            self._check_architecture()
        self.set = json.loads(json.dumps(self.set)) if self.set else None  # as settings.json will hold it
        self.output = Path(self.output) if self.output else self.default_output

    def _check_architecture(self):
        fields = {field.name for field in dataclasses.fields(EANetConfig)} - {"id2label", "image_size"}
        for name in self.set or ():
            if name not in fields:
                raise UserError(f"set {name}: not a field of the architecture; must be one of {', '.join(sorted(fields))}")
        self.architecture()

    def architecture(self, initial: EANetConfig | None = None) -> EANetConfig:
        """Return the preset, or `initial`, with the changes that these options ask for. Raises UserError."""
        config = initial or EANetConfig.preset(self.preset or "", **(self.set or {}))
        changes = {name: value for name in ("image_size", "resize") if (value := getattr(self, name)) is not None}
        if initial and initial.position_embedding and self.image_size not in (None, initial.image_size):
            raise UserError(f"image_size {self.image_size}: the position embedding of {self.init_from} is for "
                            f"{initial.image_size} pixels")  # fmt: skip
        return dataclasses.replace(config, **changes)

    def resolved(self, num_images: int | None) -> TrainConfig:
        """Return a copy with values for the options that follow the data.

        - Batches of about a fortieth of the images: a power of 2 from 16 to 128, which it is from about 3,600 images on.
        - 75 epochs with batches of 128; with those smaller ones, as many as make the same number of steps, or 1,000 steps if
          that is more, at most 200 epochs.
        - A peak learning rate of 0.005. Two epochs of warm-up, at most a tenth of all.
        - With initial weights and fewer than 10,000 images, a quarter of the epochs, and 0.001.
        - `default_ema`.

        Args:
            num_images: in the training set; None for the defaults of runs that did not record it.
        """
        new, tuned = dataclasses.replace(self), bool(self.init_from) and num_images is not None and num_images < 10_000
        if new.learning_rate is None:
            new.learning_rate = 1e-3 if tuned else 5e-3
        automatic_size = 128 if num_images is None else min(128, max(16, 2 ** round(math.log2(num_images / 40))))
        if new.batch_size is None:
            new.batch_size = automatic_size
        if new.epochs is None:
            enough = 75 if num_images is None else max(75 / 128, 1000 / num_images) * automatic_size
            new.epochs = max(1, round(min(200, enough) / (4 if tuned else 1)))
        if new.warmup_epochs is None:
            new.warmup_epochs = min(2.0, new.epochs / 10)
        if new.ema is None and num_images is not None:
            new.ema = default_ema(new.epochs * max(1, num_images // new.batch_size))
        return dataclasses.replace(new)  # checks the values together

    @property
    def default_output(self) -> Path:
        """The run folder if none is given."""
        return Path("runs", self.preset or "tuned")
