"""Mixtures made feasible: each is moved no farther than its constraints ask, and its zeros stay zero where they may.

Bounds on domains and on groups that are nested or disjoint form a tree. Weights are scaled to their sums from the root down, each
held between its bounds (the I-projection of water-filling: Csiszár, "I-divergence geometry of probability distributions and
minimization problems", 1975, at every node of the tree), which is exact. Groups that overlap, and bounds on shares within a group,
are first approached by scaling, then met by corrections and a small step towards a mixture that lies well inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regmix_active.mixture.constraints import Array, Region

TINY = 1e-9
HALVINGS = 64
"""Bisection steps of the scale of a node's children."""

PASSES = 12
"""Scalings towards constraints that are no tree."""

CORRECTIONS = 30
"""Corrections of what scaling left."""

FIXED = 1e-12
"""Sums whose bounds are this close are fixed."""

REST = 1e-13
"""What may be left of an inequality that is broken."""

WRONG = 2e-10
"""By how much a mixture may break a constraint after all corrections."""


@dataclass(frozen=True)
class Node:
    """A group of the tree.

    Attributes:
        units: Its members that are in none of its groups.
        children: Its groups.
        low: Smallest sum.
        high: Largest sum.
    """

    units: NDArray[np.intp]
    children: tuple[Node, ...]
    low: float
    high: float


def tree(region: Region) -> tuple[Node, NDArray[np.bool_]]:
    """The region's rows as a tree, and which of them are in it, shape ``(g,)``."""
    order = np.argsort(-(region.rows > 0).sum(axis=1), kind="stable")
    taken: list[int] = []
    for i in order:
        row = region.rows[i]
        members = row > 0
        if members.any() and np.array_equal(row, members.astype(float)):
            others = [region.rows[j] > 0 for j in taken]
            if all(not (members & other).any() or not (members & ~other).any() for other in others):
                taken.append(int(i))

    def build(members: NDArray[np.bool_], inside: Sequence[int], low: float, high: float) -> Node:
        children, rest, left = [], members.copy(), list(inside)
        while left:
            i = left.pop(0)
            group = region.rows[i] > 0
            below = [j for j in left if not ((region.rows[j] > 0) & ~group).any()]
            left = [j for j in left if j not in below]
            children.append(build(group, below, float(region.low[i]), float(region.high[i])))
            rest &= ~group
        return Node(np.flatnonzero(rest), tuple(children), low, high)

    kept = np.zeros(len(region.rows), dtype=bool)
    kept[taken] = True
    return build(np.ones(region.dim, dtype=bool), taken, 1.0, 1.0), kept


def repaired(region: Region, root: Node, others: NDArray[np.intp], rows: Array, active: NDArray[np.bool_], inside: Array) -> Array:
    """Rows made feasible, shape ``(n, k)``; NaN where the units that a row may use hold no mixture that was found.

    Args:
        region: The feasible set.
        root: Its tree.
        others: Its rows that are not in the tree.
        rows: Shape ``(n, k)``, ≥ 0.
        active: Which units each row uses, shape ``(n, k)``.
        inside: A feasible mixture of each row's units, shape ``(n, k)``, or ``(k,)``; NaN where none is known.
    """
    least = np.maximum(region.lower, region.smallest) if region.counted else region.lower
    lower = np.where(active, least, 0.0)
    upper = np.where(active, region.upper, 0.0)
    rows = np.where(active, rows, 0.0)
    found = _filled(root, rows, lower, upper)
    if not len(others):
        return found
    matrix, low, high = region.rows[others], region.low[others], region.high[others]
    for _ in range(PASSES):
        bad = np.flatnonzero((_excess(found, matrix, low, high) > 1e-13).any(axis=1))
        if not len(bad):
            return found
        found[bad] = _filled(root, _scaled(found[bad], matrix, low, high), lower[bad], upper[bad])
    bad = np.flatnonzero((_excess(found, matrix, low, high) > 1e-13).any(axis=1))
    if not len(bad):
        return found
    inner = np.broadcast_to(inside, rows.shape)
    for part in np.array_split(bad, max(1, len(bad) // 4096)):
        found[part] = _settled(region, found[part], lower[part], upper[part], inner[part])
    return found


def _filled(root: Node, rows: Array, lower: Array, upper: Array) -> Array:
    """The tree's sums and all bounds met, by scaling; NaN where they cannot be."""
    result = np.array(rows)
    possible = np.ones(len(rows), dtype=bool)

    def room(node: Node) -> tuple[Array, Array]:
        """Sums that a node can have, each shape ``(n,)``."""
        ends = [room(child) for child in node.children]
        low = lower[:, node.units].sum(axis=1) + sum((end[0] for end in ends), np.zeros(len(rows)))
        high = upper[:, node.units].sum(axis=1) + sum((end[1] for end in ends), np.zeros(len(rows)))
        low, high = np.maximum(low, node.low), np.minimum(high, node.high)
        possible[low > high + TINY] = False
        rooms[id(node)] = low, np.maximum(high, low)
        return rooms[id(node)]

    rooms: dict[int, tuple[Array, Array]] = {}
    room(root)

    def fill(node: Node, total: Array) -> None:
        inner = [rooms[id(child)] for child in node.children]
        low = np.column_stack([lower[:, node.units], *(end[0] for end in inner)])
        high = np.column_stack([upper[:, node.units], *(end[1] for end in inner)])
        mass = np.column_stack([result[:, node.units], *(_mass(result, child) for child in node.children)])
        shares = _scale(mass, low, high, total)
        result[:, node.units] = shares[:, : len(node.units)]
        for i, child in enumerate(node.children):
            fill(child, shares[:, len(node.units) + i])

    fill(root, np.ones(len(rows)))
    result[~possible] = np.nan
    return result


def _mass(rows: Array, node: Node) -> Array:
    total: Array = rows[:, node.units].sum(axis=1) + sum((_mass(rows, child) for child in node.children), np.zeros(len(rows)))
    return total


def _scale(mass: Array, low: Array, high: Array, total: Array) -> Array:
    """``clip(c * mass, low, high)`` with c such that rows sum to `total`, shape ``(n, c)``.

    Where the units with some mass cannot hold the total, the others share what is left in proportion to their room.
    """
    done = np.clip(mass, low, high)
    off = np.abs(done.sum(axis=1) - total) > 1e-15
    if not off.any():
        return done
    m, lo, hi, goal = mass[off], low[off], high[off], total[off]
    short = np.where(m > 0, hi, lo).sum(axis=1) < goal
    m = np.where((m > 0) | ~short[:, None], m, 1e-9 * (hi - lo) + (hi > lo) * 1e-15)
    left, right = np.full(len(m), -60.0), np.full(len(m), 60.0)
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        under = np.clip(np.exp(middle)[:, None] * m, lo, hi).sum(axis=1) < goal
        left, right = np.where(under, middle, left), np.where(under, right, middle)
    found = np.clip(np.exp(right)[:, None] * m, lo, hi)
    # What rounding leaves goes where there is room for it.
    gap = (goal - found.sum(axis=1))[:, None]
    room = np.where(gap > 0, hi - found, found - lo) * (m > 0)
    found += gap * room / np.maximum(room.sum(axis=1, keepdims=True), 1e-300)
    done[off] = np.clip(found, lo, hi)
    return done


def _excess(rows: Array, matrix: Array, low: Array, high: Array) -> Array:
    """By how much rows break constraints, shape ``(n, g)``; NaN rows break none."""
    sums = rows @ matrix.T
    return np.nan_to_num(np.maximum(low - sums, sums - high), nan=-np.inf)


def _scaled(rows: Array, matrix: Array, low: Array, high: Array) -> Array:
    """Rows after one scaling per constraint that they break: what counts towards it is scaled until it holds."""
    rows = np.array(rows)
    for coefficients, least, most in zip(matrix, low, high, strict=True):
        plus, minus = coefficients.clip(0), (-coefficients).clip(0)
        up, down = rows @ plus, rows @ minus
        value = up - down
        too_high, too_low = value > most, value < least
        goal = np.where(too_high, most, least)
        broken = (too_high | too_low) & (up > 0)
        factor = np.where(broken, (goal + down) / np.where(up > 0, up, 1.0), 1.0)
        rows *= np.where(plus > 0, np.clip(factor, 1e-6, 1e6)[:, None], 1.0)
    return rows


def _settled(region: Region, rows: Array, lower: Array, upper: Array, inside: Array) -> Array:
    """Rows that scaling left nearly feasible, made so: corrections within the room that each weight has, then a step inwards.

    A correction solves for all broken sums at once, each weight moving in proportion to its room, so that what is at a bound, or
    zero, stays there. The step meets inequalities; sums that are fixed are the same at both of its ends.

    Args:
        region: The feasible set.
        rows: Shape ``(n, k)``.
        lower: Bounds of each row, shape ``(n, k)``.
        upper: Likewise.
        inside: A feasible mixture of each row's units, shape ``(n, k)``; NaN where none is known.
    """
    matrix = np.concatenate([np.ones((1, region.dim)), region.rows])
    low, high = np.append(1.0, region.low), np.append(1.0, region.high)
    found = np.array(rows)
    for _ in range(CORRECTIONS):
        if _excess(found, matrix, low, high).max() <= REST:
            break
        found = _corrected(found, matrix, low, high, lower, upper)
    over = np.concatenate([_excess(found, matrix, low, high), lower - found, found - upper], axis=1)
    with np.errstate(invalid="ignore"):
        room = -np.concatenate([_excess(inside, matrix, low, high), lower - inside, inside - upper], axis=1)
        loose = np.concatenate([high - low > FIXED, np.ones(2 * region.dim, dtype=bool)])
        broken = (over > REST) & loose
        step = np.where(broken, over / np.maximum(over + np.maximum(room, 0.0), REST), 0.0).max(axis=1)[:, None]
        found = np.where(step > 0, found + np.minimum(step * (1 + 1e-6), 1.0) * (inside - found), found)
    found = _corrected(found, matrix, low, high, lower, upper)
    left = np.concatenate([_excess(found, matrix, low, high), lower - found, found - upper], axis=1).max(axis=1)
    # Nothing helps where the nearest feasible mixture is the one inside.
    return np.where((left > WRONG)[:, None], inside, found)


def _corrected(rows: Array, matrix: Array, low: Array, high: Array, lower: Array, upper: Array) -> Array:
    """Rows after one correction of all broken sums, shape ``(n, k)``."""
    room = np.minimum(rows - lower, upper - rows).clip(0) + 1e-9 * (upper - lower)
    sums = rows @ matrix.T
    gap = np.clip(sums, low, high) - sums
    moved = np.abs(gap) > 1e-16
    moved |= high - low < FIXED
    gram = np.einsum("gk,nk,hk->ngh", matrix, room, matrix, optimize=True) * (moved[:, :, None] & moved[:, None])
    # Sums that imply each other, or cannot move, make the system singular.
    scale = np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-300
    solved = np.linalg.solve(gram + 1e-13 * scale * np.eye(len(matrix)), np.where(moved, gap, 0.0)[..., None])[..., 0]
    change = room * (solved @ matrix)
    return np.clip(rows + change, lower, upper)
