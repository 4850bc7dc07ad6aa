"""Exports of a trained model to other runtimes, and models that run them."""

from eanet.export.litert import LitertModel, export_litert, find_litert
from eanet.export.onnx import OnnxModel, export_onnx, find_onnx

__all__ = ["LitertModel", "OnnxModel", "export_litert", "export_onnx", "find_litert", "find_onnx"]
