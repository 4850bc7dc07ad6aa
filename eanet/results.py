"""What was predicted for a file, and the formats in which results go to a text stream."""

from __future__ import annotations

import csv
import json
from typing import NamedTuple

from eanet.cli import printable


class Result(NamedTuple):
    """The predictions for one file, or why it could not be read."""

    path: str
    predictions: list[dict]
    error: str | None = None


class TextWriter:
    """Writes a small table per image; control characters in names and labels are escaped.

    Args:
        out: a text stream.
    """

    def __init__(self, out):
        self.out = out

    def write(self, results: list[Result]) -> None:
        """Write some more results."""
        for path, predictions, _ in results:
            rows = [(printable(p["label"]), 100 * p["score"]) for p in predictions]
            width = max(16, *(len(label) for label, _ in rows))
            lines = (f"  {label:<{width}} {percent:5.1f}%\n" for label, percent in rows)
            self.out.write(f"{printable(path)}\n{''.join(lines)}")

    def close(self) -> None:
        """Complete the output; the stream stays open."""
        self.out.flush()


class JsonWriter(TextWriter):
    """Writes a JSON list of {"image", "predictions"}, one image per line."""

    _before = "["

    def write(self, results: list[Result]) -> None:
        """Write some more results."""
        for path, predictions, _ in results:
            self.out.write(f"{self._before}\n{json.dumps({'image': path, 'predictions': predictions})}")
            self._before = ","

    def close(self) -> None:
        """Complete the output; the stream stays open."""
        self.out.write("[]\n" if self._before == "[" else "\n]\n")
        self.out.flush()


class CsvWriter(TextWriter):
    """Writes the columns image, rank, label and score, one row per prediction."""

    def __init__(self, out):
        super().__init__(out)
        self._writer = csv_writer(out)
        self._writer.writerow(["image", "rank", "label", "score"])

    def write(self, results: list[Result]) -> None:
        """Write some more results."""
        for path, predictions, _ in results:
            self._writer.writerows([path, rank, p["label"], p["score"]] for rank, p in enumerate(predictions, 1))


FORMATS = {"text": TextWriter, "json": JsonWriter, "csv": CsvWriter}


def csv_writer(out):
    """Return a `csv.writer` that quotes all text: with minimal quoting, Python before 3.13 leaves a carriage return bare."""
    return csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
