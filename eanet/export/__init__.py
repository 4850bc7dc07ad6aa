"""Exports of a trained model to other runtimes, and models that run them."""

from eanet.export.onnx import OnnxModel, export_onnx, find_onnx

__all__ = ["OnnxModel", "export_onnx", "find_onnx"]
