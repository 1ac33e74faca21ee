"""Exporting: a model as an ONNX file or a program of torch.export, verified before it is written."""

from saccade.exporting.exporter import SUFFIXES, Exported, export

__all__ = ["SUFFIXES", "Exported", "export"]
