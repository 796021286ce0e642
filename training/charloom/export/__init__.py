"""Export: a trained model as decoders that run K steps for B rows in one call."""

from charloom.export.exporter import INT8_LIMIT, ExportError, export_bundle

__all__ = ["INT8_LIMIT", "ExportError", "export_bundle"]
