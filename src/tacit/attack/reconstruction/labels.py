"""What gives itself away without any search: labels, and the inputs of linear layers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tacit.learn.layout import Layout

__all__ = ["first_linear", "input_of_linear", "label_of", "labels_of_sum", "last_bias"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def first_linear(layout: Layout, features: int) -> tuple[slice, slice] | None:
    """Where weight and bias of a linear layer over the records themselves lie, or None.

    Args:
        layout: Of the model.
        features: Length of a record.
    """
    start = 0
    shared = [entry for entry in layout.entries if entry.role == "shared"]
    for entry, after in pairwise(shared):
        end = start + entry.size
        if len(entry.shape) == 2 and entry.shape[1] == features and after.shape == entry.shape[:1]:
            return slice(start, end), slice(end, end + after.size)
        break  # another layer came first
    return None


def last_bias(layout: Layout, classes: int) -> slice | None:
    """Where the bias of the logits lies, or None: of two classes it may be one number."""
    shared = [entry for entry in layout.entries if entry.role == "shared"]
    last, total = shared[-1], sum(entry.size for entry in shared)
    if last.shape == (classes,) or (classes == 2 and last.shape == (1,)):
        return slice(total - last.size, total)
    return None


def input_of_linear(weight: Floats, bias: Floats) -> Floats:
    """The input of a linear layer from its gradient for one record, whatever the scale.

    The gradient is an outer product of errors with the input, and the bias's gradient is those errors: the
    input follows by least squares over the layer's outputs.

    Args:
        weight: ``float64[outputs, k]``.
        bias: ``float64[outputs]``.

    Returns:
        ``float64[k]``; zeros if there is no error to divide by.

    Reference:
        Phong et al. 2017, "Privacy-preserving deep learning", section 3; Geiping et al. 2020, proposition 3.1.
    """
    square = float(bias @ bias)
    found: Floats = bias @ weight / square if square > 0.0 else np.zeros(weight.shape[1])
    return found


def label_of(errors: Floats) -> int:
    """The label of one record from the gradient of the logits' bias: the only negative entry.

    Args:
        errors: ``float64[classes]``, or ``float64[1]``, the second of two classes.

    Reference:
        Zhao et al. 2020, "iDLG".
    """
    return int(errors[0] < 0.0) if len(errors) == 1 else int(np.argmin(errors))


def labels_of_sum(errors: Floats, probabilities: Floats, count: int) -> Labels:
    """The labels of so many records from the sum of the bias's gradient, ``int64[count]``.

    That sum is what the model predicts for the records less their labels; what it predicts on average for
    records of the kind stands in for the former.

    Args:
        errors: ``float64[classes]``, or ``float64[1]``.
        probabilities: Predictions for known records, ``float64[N, classes]``.
        count: Number of records.
    """
    mean = probabilities.mean(axis=0)
    if len(errors) == 1:
        ones = int(np.clip(round(count * mean[1] - errors[0]), 0, count))
        return np.array([0] * (count - ones) + [1] * ones, dtype=np.int64)
    shares = np.maximum(0.0, count * mean - errors)
    whole = np.floor(shares).astype(np.int64)
    while whole.sum() < count:
        whole[np.argmax(shares - whole)] += 1
    while whole.sum() > count:
        kept = np.where(whole > 0, shares - whole, np.inf)
        whole[np.argmin(kept)] -= 1
    return np.repeat(np.arange(len(whole)), whole).astype(np.int64)
