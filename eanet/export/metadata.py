"""What all exports share: where the file goes, and what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path

from eanet.cli import UserError, first_line
from eanet.saving import model_checksum
from modeling_eanet import EANetConfig, model_folder


def check_output(path) -> Path:
    """Return the path of a file to write. Raises UserError if it is a folder, or in one that does not exist."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path}: cannot be written; give a file in an existing folder")
    return path


def export_metadata(model, config) -> dict[str, str]:
    """Return what every export says of itself: `eanet_config`, the settings as JSON, and `checksum`, of the weights."""
    return {"eanet_config": json.dumps(config.to_dict()), "checksum": model_checksum(model, config)}


def read_metadata(path, metadata: dict[str, str]) -> tuple[EANetConfig, str]:
    """Return the configuration and checksum in an export's metadata. Raises UserError, naming `path`, if there is none."""
    try:
        return EANetConfig.from_dict(json.loads(metadata["eanet_config"])), str(metadata["checksum"])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not written by eanet.export (metadata: {first_line(error)})") from None


def find_export(name: str, files: tuple[str, ...], option: str = "") -> Path:
    """Return the path of a model's export, downloading it for a Hub repository.

    Args:
        name: an export, a model folder, or a Hub repo id.
        files: where it is in the last two; the first one found.
        option: of the command that would write it, for the message.

    Raises:
        UserError: the folder or repository has no such file, it cannot be downloaded, or huggingface_hub is missing.
    """
    path = Path(name)
    if path.is_file() or path.suffix == Path(files[0]).suffix:
        return path
    folder = model_folder(name, files=files)
    for file in files:
        if (folder / file).is_file():
            return folder / file
    output = "" if path.is_dir() else f" --output {Path(files[0]).name}"
    raise UserError(f"{name}: has no {files[0]}; `python -m eanet.export {option}{name}{output}` writes it")
