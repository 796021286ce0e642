"""Export: a trained model as decoders that run K steps for B rows in one call."""

from charloom.export.classifier import ClassifierToExport, export_classifier
from charloom.export.errors import ExportError
from charloom.export.exporter import INT8_LIMIT, export_bundle
from charloom.export.from_bundle import export_from_bundle

__all__ = [
    "INT8_LIMIT",
    "ClassifierToExport",
    "ExportError",
    "export_bundle",
    "export_classifier",
    "export_from_bundle",
]
