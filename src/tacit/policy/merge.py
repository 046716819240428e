"""Many points of a grid as few boxes, so that people can read them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Box", "merged"]

WIDENED_LIMIT = 200_000
"""Most points that are looked at to make one axis of a box as wide as all there is."""


@dataclass(frozen=True, slots=True)
class Box:
    """A product of sets.

    Args:
        sides: Of each attribute, the numbers of its values.
        points: How many of the given points are in it.
    """

    sides: tuple[frozenset[int], ...]
    points: int


def merged(
    points: Sequence[tuple[int, ...]], free: Sequence[tuple[int, ...]], sizes: Sequence[int]
) -> list[Box]:
    """Boxes that together hold every point, and else nothing but free points.

    Args:
        points: What must be covered.
        free: What may be covered where it makes a box simpler.
        sizes: How many values each attribute has.
    """
    boxes = {_single(point): 0 for point in free} | {_single(point): 1 for point in points}
    merging = True
    while merging:
        count = len(boxes)
        for axis in range(len(sizes)):
            boxes = _merged_along(axis, boxes)
        merging = len(boxes) < count
    harmless = set(free)
    kept = [Box(_widened(box, harmless, sizes), held) for box, held in boxes.items() if held]
    return sorted(kept, key=lambda box: (-box.points, [sorted(side) for side in box.sides]))


Sides = tuple[frozenset[int], ...]


def _single(point: tuple[int, ...]) -> Sides:
    return tuple(frozenset({number}) for number in point)


def _widened(box: Sides, harmless: set[tuple[int, ...]], sizes: Sequence[int]) -> Sides:
    """The box with each axis as wide as free points let it be, so that fewer axes matter."""
    for axis, size in enumerate(sizes):
        missing = frozenset(range(size)) - box[axis]
        volume = math.prod(map(len, box)) // len(box[axis])
        if volume * len(missing) > WIDENED_LIMIT:
            continue
        others = [*box[:axis], missing, *box[axis + 1 :]]
        if all(point in harmless for point in itertools.product(*others)):
            box = (*box[:axis], box[axis] | missing, *box[axis + 1 :])
    return box


def _merged_along(axis: int, boxes: dict[Sides, int]) -> dict[Sides, int]:
    """Joins the boxes that differ along one axis only; they hold no point in common."""
    groups: dict[Sides, tuple[frozenset[int], int]] = {}
    for box, held in boxes.items():
        others = (*box[:axis], *box[axis + 1 :])
        side, before = groups.get(others, (frozenset(), 0))
        groups[others] = (side | box[axis], before + held)
    return {(*others[:axis], side, *others[axis:]): held for others, (side, held) in groups.items()}
