"""Gradient matching: the records whose updates are the one that was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag  # type: ignore[import-untyped]

from tacit.attack.reconstruction.gradients import Updates

__all__ = [
    "Match",
    "Observed",
    "Prior",
    "Search",
    "gauss_newton",
    "search",
]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

_LEAST_DAMPING = 1e-10


@dataclass(frozen=True, slots=True)
class Prior:
    """What records of a kind look like, learnt from those that the adversary knows: a normal law by class.

    Args:
        means: Of each wanted record's class, ``float64[n, k]``.
        whitening: ``float64[n, k, k]``: times a difference from the mean it has unit covariance.
        weight: Of its squares beside those of the residual: the share of an update that is not explained.
    """

    means: Floats
    whitening: Floats
    weight: float

    @classmethod
    def of(cls, features: Floats, classes: Labels, labels: Labels, weight: float) -> Prior:
        """From known records.

        Args:
            features: ``float64[N, k]``.
            classes: Their labels, ``int64[N]``.
            labels: Of the wanted records, ``int64[n]``.
            weight: See above.
        """
        means, whitening = [], []
        for label in labels:
            mine = features[classes == label] if (classes == label).sum() > 2 else features
            mean = mine.mean(axis=0)
            values, vectors = np.linalg.eigh(np.cov(mine.T) + 1e-9 * np.eye(mine.shape[1]))
            means.append(mean)
            whitening.append((vectors / np.sqrt(np.maximum(values, 1e-9))).T)
        return cls(np.stack(means), np.stack(whitening), weight)

    def residual(self, x: Floats) -> Floats:
        """``float64[n k]``."""
        found = np.einsum("nij,nj->ni", self.whitening, x - self.means)
        scaled: Floats = float(np.sqrt(self.weight)) * found.ravel()
        return scaled

    def jacobian(self) -> Floats:
        """``float64[n k, n k]``."""
        found: Floats = np.sqrt(self.weight) * block_diag(*self.whitening)
        return found


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of some records, round by round.

    Args:
        theta: The models, ``float64[R, d]``.
        updates: Sums of the records' updates, ``float64[R, d]``.
        labels: Of the records, ``int64[n]``.
        scaled: Whether each round's update may have been rescaled, as clipping does: only its direction
            counts then.
        prior: What is known of them besides.
    """

    theta: Floats
    updates: Floats
    labels: Labels
    scaled: bool = False
    prior: Prior | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Match:
    """What a search found.

    Args:
        records: ``float64[n, k]``.
        cost: Mean squared distance of updates over their squared length: 0 is a perfect match, and 1 or
            more no match at all.
    """

    records: Floats
    cost: float


@dataclass(frozen=True, slots=True)
class Search:
    """How much to search.

    Args:
        restarts: Starting points at most.
        iterations: Steps from each.
        bound: Largest magnitude of a feature.
        good: Cost at which to stop.
    """

    restarts: int
    iterations: int
    bound: float = 1.0
    good: float = 1e-9


def search(
    updates: Updates,
    seen: Observed,
    generator: np.random.Generator,
    how: Search,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Match:
    """The best match of several starting points, by Gauss-Newton.

    Args:
        updates: What records send.
        seen: What was seen.
        generator: The attacker's.
        how: How much to search.
        on_progress: Told after every starting point.
    """
    best = Match(np.zeros((len(seen), updates.features)), float("inf"))
    for trial in range(how.restarts):
        shape = (len(seen), updates.features)
        start = 0.5 * how.bound * generator.uniform(-1.0, 1.0, shape)
        if seen.prior is not None:
            start = seen.prior.means + 0.1 * start
        found = gauss_newton(updates, seen, start, how)
        if found.cost < best.cost:
            best = found
        on_progress((trial + 1) / how.restarts)
        if best.cost <= how.good:
            break
    return best


def gauss_newton(updates: Updates, seen: Observed, start: Floats, how: Search) -> Match:
    """Levenberg-Marquardt on the difference of updates, within the features' bounds.

    Where an update has as many coordinates as the records have features, and it was not perturbed, this finds
    records to the precision of the update, and it is blind to any rescaling if ``seen.scaled``.

    Args:
        updates: What records send.
        seen: What was seen.
        start: ``float64[n, k]``.
        how: Iterations, bound, and when to stop.

    Reference:
        Marquardt 1963; the objective is that of Zhu et al. 2019, "Deep leakage from gradients", and with
        ``scaled`` the cosine distance of Geiping et al. 2020.
    """
    problem = _Problem(updates, seen)
    x, damping, slow = start.copy(), 1e-2, 0
    residual, cost = problem.residual(x)
    for _ in range(how.iterations):
        jacobian = problem.jacobian(x)
        curvature, slope = jacobian.T @ jacobian, jacobian.T @ residual
        unit = float(np.trace(curvature)) / len(curvature) + 1e-300
        before = cost
        for _ in range(10):
            damped = curvature + damping * unit * np.eye(len(curvature))
            try:
                step = np.linalg.solve(damped, slope).reshape(x.shape)
            except np.linalg.LinAlgError:
                damping *= 10.0
                continue
            tried = np.clip(x - step, -how.bound, how.bound)
            residual_there, cost_there = problem.residual(tried)
            if cost_there < cost:
                x, residual, cost = tried, residual_there, cost_there
                damping = max(damping / 5.0, _LEAST_DAMPING)
                break
            damping *= 4.0
        slow = slow + 1 if cost > before * (1.0 - 1e-3) else 0
        if cost <= how.good or slow >= 4:
            break
    return Match(x, cost)


class _Problem:
    """Residuals and their derivatives, in units of the update that was seen."""

    def __init__(self, updates: Updates, seen: Observed) -> None:
        self._updates = updates
        self._seen = seen
        # Every round is rounded to the same grid: their errors are alike, whatever their lengths.
        whole = max(float(np.linalg.norm(seen.updates)), 1e-300)
        self._lengths: Floats = np.full((len(seen.updates), 1), whole)
        if seen.scaled:
            self._lengths = self._own_scale(seen.updates)
        self._target = seen.updates / self._lengths

    def residual(self, x: Floats) -> tuple[Floats, float]:
        """The residual ``float64[R d]`` and its square."""
        made = self._updates.rows(self._seen.theta, x, self._seen.labels).sum(axis=1)
        scale = self._lengths
        if self._seen.scaled:
            scale = self._own_scale(made)
        found = (made / scale - self._target).ravel()
        if self._seen.prior is not None:
            found = np.concatenate([found, self._seen.prior.residual(x)])
        square = float(found @ found)
        return found, square if np.isfinite(square) else float("inf")

    def jacobian(self, x: Floats) -> Floats:
        """``float64[R d, n k]``."""
        bent = self._updates.jacobian(self._seen.theta, x, self._seen.labels)
        rounds, count, length, features = bent.shape
        if self._seen.scaled:
            made = self._updates.rows(self._seen.theta, x, self._seen.labels).sum(axis=1)
            scale = self._own_scale(made)
            direction = made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-300)
            along = np.einsum("rd,rndk->rnk", direction, bent)
            bent = bent - direction[:, None, :, None] * along[:, :, None, :]
        else:
            scale = self._lengths
        bent = np.ascontiguousarray((bent / scale[:, None, :, None]).transpose(0, 2, 1, 3))
        found = bent.reshape(rounds * length, count * features)
        if self._seen.prior is None:
            return found
        return np.concatenate([found, self._seen.prior.jacobian()])

    def _own_scale(self, made: Floats) -> Floats:
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        scale: Floats = np.maximum(lengths, 1e-300) * np.sqrt(len(lengths))
        return scale
