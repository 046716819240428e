"""One training of an image task: by the library, or by one of its peers."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np

from support.machine import say
from support.utility import peers
from support.utility.images import CLASSES, Floats, Images, Labels, clients
from support.utility.settings import DELTA, HELPERS, Setting
from tacit.engine.direct import DirectRun
from tacit.party.workload import TrainingData
from tacit.privacy.accounting import calibrate
from tacit.privacy.plan import Plan
from tacit.testing.entropy import SeededEntropy

Method = Literal["Tacit", "central DP-SGD", "Flower's accounting", "local DP", "no privacy"]

NEWS_EVERY = 50
"""Rounds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What to train.

    Args:
        setting: The task.
        images: Its records.
        plan: The library's privacy plan.
        method: By whom.
        epsilon: Of the whole run.
        seed: Of sampling and noise, and of who holds what.
    """

    setting: Setting
    images: Images
    plan: Plan
    method: Method
    epsilon: float
    seed: int

    @property
    def label(self) -> str:
        """For lines of progress."""
        return f"{self.setting.title}, epsilon {self.epsilon:g}, {self.method}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out.

    Args:
        accuracy: In percent, on records that nothing was trained on.
        seconds: Wall time of the training.
    """

    accuracy: float
    seconds: float


def run(trial: Trial) -> Outcome:
    """Trains and scores; made for a process of its own."""
    features, labels = _held(trial)
    started = time.perf_counter()
    weights = (library if trial.method == "Tacit" else peer)(trial, features, labels)
    seconds = time.perf_counter() - started
    test = trial.images.test
    return Outcome(peers.accuracy(weights, test.features(), test.labels), seconds)


def noise(trial: Trial) -> float:
    """Standard deviation of all the noise in a sum, over the clip norm.

    Central noise is what the accountant asks for; ours is more by the share that a colluding helper may
    subtract. Flower's accountant grants no amplification by sampling: its noise is that of as many rounds
    in which everybody takes part. Under local DP every site adds the central noise; every sampled client
    adds what it needs against a leader that sees each of its uploads, as many as the cap allows.
    """
    plan, setting = trial.plan, trial.setting
    if trial.method == "Tacit":
        return math.sqrt(plan.total_variance(HELPERS)) * plan.grid / plan.clip_norm
    if trial.method == "Flower's accounting":
        return _in_full(trial, setting.rounds)
    if trial.method == "local DP":
        if setting.unit == "client":
            return _in_full(trial, setting.cap) * math.sqrt(plan.divisor)
        return plan.noise_multiplier * math.sqrt(setting.holders)
    return plan.noise_multiplier if trial.method == "central DP-SGD" else 0.0


def _in_full(trial: Trial, rounds: int) -> float:
    """The noise of so many rounds without sampling."""
    return calibrate(target_epsilon=trial.epsilon, delta=DELTA, sampling_rate=1.0, rounds=rounds)


def library(trial: Trial, features: Floats, labels: Labels) -> peers.Floats:
    """What the library releases, ``float64[k + 1, classes]``: weights, then the bias.

    Args:
        trial: What to train.
        features: Of all holders, one after the other, ``float32[n, k]``.
        labels: ``int64[n]``.
    """
    setting = trial.setting
    held = zip(
        np.array_split(features, setting.holders),
        np.array_split(labels, setting.holders),
        strict=True,
    )
    workload = setting.workload(trial.epsilon, features.shape[1])
    direct = DirectRun(
        workload,
        trial.plan,
        [TrainingData(*part) for part in held],
        SeededEntropy(f"{setting.title} {trial.epsilon} {trial.seed}"),
        variance=round(trial.plan.total_variance(HELPERS) * Fraction(setting.noise_scale) ** 2),
    )
    released = workload.model.model.tensors(direct.run(lambda done: _tell(trial, done)))
    return np.vstack([released["weight"].T, released["bias"]])


def peer(trial: Trial, features: Floats, labels: Labels) -> peers.Floats:
    """What a peer would release; see ``library``."""
    setting = trial.setting
    wanted = noise(trial)
    how = peers.Central(
        classes=CLASSES,
        sampling_rate=setting.sampling_rate,
        rounds=setting.rounds,
        clip_norm=setting.clip_norm,
        noise=wanted * setting.noise_scale,
        learning_rate=_rate(trial, wanted),
        cosine=setting.schedule == "cosine",
        average_from=setting.average_from[trial.epsilon],
    )
    generator = np.random.default_rng([trial.seed, round(10 * trial.epsilon)])
    if setting.local_rate is None:
        return peers.dp_sgd(features, labels, how, generator)
    local = peers.Local(setting.local_steps, setting.local_rate)
    shape = (setting.holders, setting.size)
    inputs = features.reshape(*shape, -1)
    return peers.dp_fedavg(inputs, labels.reshape(shape), how, local, generator)


def _rate(trial: Trial, wanted: float) -> float:
    """A peer's server rate: ours, lowered as its noise exceeds ours, which ours was chosen for."""
    if not wanted:
        return trial.setting.open_rate
    ours = noise(replace(trial, method="Tacit"))
    return trial.setting.learning_rates[trial.epsilon] * min(1.0, ours / wanted)


def _held(trial: Trial) -> tuple[Floats, Labels]:
    """The training records in the order of their holders; as they lie for sites, which are alike."""
    setting, train = trial.setting, trial.images.train
    if setting.unit == "record":
        return train.features(), train.labels
    order = clients(train.labels, setting.holders, setting.size, trial.seed).ravel()
    return train.features()[order], train.labels[order]


def _tell(trial: Trial, done: int) -> None:
    if done % NEWS_EVERY == 0 and done < trial.setting.rounds:
        say(f"{trial.label}: round {done} of {trial.setting.rounds}")
