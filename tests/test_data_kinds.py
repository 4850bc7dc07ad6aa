"""What is read of the folders, tables and archives that people have: the cases of benchmarks/reading_cases.py."""

import sys

from conftest import ROOT, tiny_config

from eanet.data import inspect, load_dataset
from modeling_eanet import UserError

sys.path.insert(0, str(ROOT / "benchmarks"))

import reading
import reading_cases


def what_is_read(case):
    try:
        found = inspect(load_dataset(case.path, tiny_config()))
    except UserError as error:
        return case.expected if str(case.expected) in str(error) and "\n" not in str(error) else str(error)
    return {**found, "classes": sorted(found["classes"]), "left_out": len(found["left_out"])}


def test_each_kind_is_read(tmp_path):
    cases = [case for _, case in reading_cases.build(tmp_path)]
    wrong = {case.name: found for case in cases if (found := what_is_read(case)) != case.expected}
    assert not wrong
    assert len(cases) > 50 and len({case.name for case in cases}) == len(cases)


def test_the_best_folder_is_chosen_for_a_reader_of_one_folder(tmp_path):
    reading_cases.classes(tmp_path / "set" / "train", 3)
    reading_cases.classes(tmp_path / "set" / "test", 2)
    assert reading.best_folder(tmp_path, ["green", "red"], 6) == tmp_path / "set" / "train"
    assert reading.best_folder(tmp_path, ["green", "red"], 4) == tmp_path / "set" / "test"
