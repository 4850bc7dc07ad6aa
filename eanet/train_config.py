"""The options of a training run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from modeling_eanet import EANetConfig, UserError

PRECISIONS = ("float32", "mixed_bfloat16")
# Options that must match to resume a run, in the order in which they are recorded.
RECIPE_FIELDS = (
    *("preset", "epochs", "batch_size", "seed", "validation_split", "learning_rate", "weight_decay"),
    *("warmup_epochs", "label_smoothing", "cutmix", "ema", "precision", "init_from", "set"),
)
# Recorded only when used, so that runs of versions without these options can be resumed.
OPTIONAL_RECIPE_FIELDS = ("image_column", "label_column", "class_weights", "teacher", "distill", "distill_temperature")
# Of a run with a teacher; without one they are None.
DISTILL_DEFAULTS = {"distill": 0.9, "distill_temperature": 1.5}


def _is_int(value, low, high=math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < high


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_RULES = (
    ("epochs batch_size", lambda v: _is_int(v, 1), "must be an integer, at least 1"),
    ("seed", lambda v: _is_int(v, 0, 2**32), "must be an integer from 0 to 4294967295"),
    ("validation_split label_smoothing", lambda v: _is_number(v) and 0 <= v < 1, "must be a number in [0, 1)"),
    ("ema", lambda v: v is None or _is_number(v) and 0 <= v < 1, "must be a number in [0, 1), or None for the default"),
    ("cutmix", lambda v: _is_number(v) and 0 <= v <= 1, "must be a number in [0, 1]"),
    ("learning_rate", lambda v: _is_number(v) and v > 0, "must be a number above 0"),
    ("weight_decay warmup_epochs", lambda v: _is_number(v) and v >= 0, "must be a number, at least 0"),
    ("distill", lambda v: v is None or _is_number(v) and 0 <= v <= 1, "must be a number in [0, 1]"),
    ("distill_temperature", lambda v: v is None or _is_number(v) and v > 0, "must be a number above 0"),
    ("precision", lambda v: v in PRECISIONS, f"must be one of {', '.join(PRECISIONS)}"),
    ("class_weights", lambda v: v in (None, "balanced"), 'must be "balanced", or None for equal weights'),
)


@dataclasses.dataclass
class TrainConfig:
    """Options of a training run. An invalid one raises UserError naming it, its value and the valid range."""

    data: str | None = None  # path of a data set, see eanet.data.load_dataset; None to download CIFAR-100
    preset: str | None = None  # architecture, one of PRESETS: "small", unless init_from brings its own
    set: dict | None = None  # changes to fields of the preset's EANetConfig
    init_from: str | None = None  # model folder or Hub repo id with the initial weights
    output: Path = None  # type: ignore[assignment]  # run folder (or text); runs/PRESET, or runs/tuned with init_from
    resume: bool = False  # fail unless there is a run to resume
    epochs: int = 75
    batch_size: int = 128
    seed: int = 0  # of the initial weights, order, augmentation and validation split
    validation_split: float = 0.02  # fraction of the training images
    learning_rate: float = 5e-3  # peak; linear warm-up before it, cosine to 0 after it
    weight_decay: float = 0.1  # of AdamW; biases and norms are exempt
    warmup_epochs: float = None  # type: ignore[assignment]  # 2, and at most a tenth of the epochs
    label_smoothing: float = 0.1
    cutmix: float = 0.5  # fraction of the images; 0 in the last tenth of the epochs
    ema: float | None = None  # momentum of the moving average of the weights; see eanet.trainer.ema_momentum
    precision: str = "float32"
    class_weights: str | None = None  # "balanced": all classes count the same in the loss, whatever their number of images
    teacher: str | None = None  # model folder or Hub repo id to learn from, see eanet.distillation
    # Weight of the teacher in the loss, the labels have the rest; and the temperature of both. 0.9 and 1.5 with a teacher.
    distill: float = None  # type: ignore[assignment]
    distill_temperature: float = None  # type: ignore[assignment]
    image_column: str | None = None  # of a table or a Hub data set; None to find it
    label_column: str | None = None
    strict: bool = False  # fail if any file of the data is left out

    def __post_init__(self):
        if self.init_from:
            for name in ("preset", "set"):
                if value := getattr(self, name):
                    raise UserError(f"{name} {value}: not allowed with init_from, which brings its architecture")
        elif self.preset is None:
            self.preset = "small"
        for name, default in DISTILL_DEFAULTS.items():
            if self.teacher and getattr(self, name) is None:
                setattr(self, name, default)
            elif not self.teacher and (value := getattr(self, name)) is not None:
                raise UserError(f"{name} {value}: must be None without a teacher")
        if self.warmup_epochs is None and _is_int(self.epochs, 1):
            self.warmup_epochs = min(2.0, self.epochs / 10)
        for names, accepts, hint in _RULES:
            for name in names.split():
                if not accepts(getattr(self, name)):
                    raise UserError(f"{name} {getattr(self, name)}: {hint}")
        if self.warmup_epochs >= self.epochs:
            raise UserError(f"warmup_epochs {self.warmup_epochs}: must be below epochs {self.epochs}")
        if self.preset is not None:
            self._check_architecture()
        self.set = json.loads(json.dumps(self.set)) if self.set else None  # as settings.json will hold it
        self.output = Path(self.output) if self.output else self.default_output

    def _check_architecture(self):
        fields = {field.name for field in dataclasses.fields(EANetConfig)} - {"id2label", "image_size"}
        for name in self.set or ():
            if name not in fields:
                raise UserError(f"set {name}: not a field of the architecture; must be one of {', '.join(sorted(fields))}")
        EANetConfig.preset(self.preset, **(self.set or {}))

    @property
    def default_output(self) -> Path:
        """The run folder if none is given."""
        return Path("runs", self.preset or "tuned")
