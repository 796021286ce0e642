"""`labels.npy`: from what a classifier's network holds once it has read a text to the probabilities of its labels.

Axis letters: H hidden, C labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from charloom.bundle.errors import BundleError
from charloom.bundle.manifest import LABEL_HEAD_FILE
from charloom.bundle.reader import Bundle


class LabelHead:
    """A linear layer and a softmax.

    Args:
        matrix: [H + 1, C], float32, the biases last. A temperature that calibrates the probabilities has divided it.
    """

    def __init__(self, matrix: npt.NDArray[np.float32]) -> None:
        self._weights = matrix[:-1].astype(np.float64)
        self._biases = matrix[-1].astype(np.float64)

    def probabilities(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """[C], the probability of each label, of h [H] of the last layer."""
        # Summed by itself and not in a batch with others: a text's probabilities depend on that text alone.
        logits = hidden.astype(np.float64) @ self._weights + self._biases
        shares = np.exp(logits - logits.max())
        probabilities: npt.NDArray[np.float64] = shares / shares.sum()
        return probabilities


def write_label_head(directory: Path, matrix: npt.NDArray[np.float32]) -> None:
    """Put a matrix [H + 1, C] into a bundle that is being made."""
    np.save(directory / LABEL_HEAD_FILE, np.ascontiguousarray(matrix, "<f4"), allow_pickle=False)


def read_label_head(bundle: Bundle) -> LabelHead | None:
    """That of a bundle; None where it is no classifier.

    Raises:
        BundleError: the file is missing, or is not the matrix that the manifest describes.
    """
    labelling = bundle.manifest.labelling
    if labelling is None:
        return None
    if LABEL_HEAD_FILE not in bundle.manifest.files:
        raise BundleError(bundle.path, f"it has labels, and the file {LABEL_HEAD_FILE} is not listed")
    try:
        matrix = np.load(bundle.path / LABEL_HEAD_FILE, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise BundleError(bundle.path, f"the file {LABEL_HEAD_FILE} is no array: {problem}") from problem
    wanted = (bundle.manifest.cell.hidden_size + 1, len(labelling.labels))
    if matrix.dtype != np.float32 or matrix.shape != wanted:
        raise BundleError(
            bundle.path,
            f"the file {LABEL_HEAD_FILE} has {matrix.dtype} numbers in sizes {matrix.shape}; with these units and "
            f"labels they are float32 in sizes {wanted}",
        )
    if not np.isfinite(matrix).all():
        raise BundleError(bundle.path, f"the file {LABEL_HEAD_FILE} has numbers that are not finite")
    return LabelHead(matrix)
