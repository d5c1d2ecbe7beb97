"""Axis-aligned rectangles: in grid cells for a plan, in metres for a house."""

from collections.abc import Iterable
from typing import NamedTuple

Point = tuple[float, float]


class Rect(NamedTuple):
    """A rectangle whose sides are parallel to the axes; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def center(self) -> Point:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def grown(self, margin: float) -> "Rect":
        """The rectangle with `margin` added at every side; smaller if it is negative."""
        return Rect(self.left - margin, self.top - margin, self.right + margin, self.bottom + margin)

    def scaled(self, x: float, y: float) -> "Rect":
        return Rect(self.left * x, self.top * y, self.right * x, self.bottom * y)

    def contains(self, x: float, y: float) -> bool:
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def overlaps(self, other: "Rect") -> bool:
        left, top, right, bottom = other
        return self.left < right and left < self.right and self.top < bottom and top < self.bottom

    def shared_edge(self, other: "Rect") -> "Rect":
        """The edge along which two neighbours meet: a rectangle of zero width or zero height."""
        left, top, right, bottom = other
        return Rect(max(self.left, left), max(self.top, top), min(self.right, right), min(self.bottom, bottom))


def bounding(points: Iterable[Point]) -> Rect:
    """The smallest rectangle that contains every point."""
    xs, ys = zip(*points, strict=True)
    return Rect(min(xs), min(ys), max(xs), max(ys))
