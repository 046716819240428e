"""The server step against hand-written references, and the state's strict encoding."""

import math
from itertools import pairwise

import numpy as np
import pytest

from tacit.errors import DecodeError, RoundAborted
from tacit.learn.server import ServerRule, ServerState

GRADIENTS = [np.array([0.5, -1.0, 2.0]), np.array([0.25, 1.0, -1.0]), np.array([-1.0, 0.0, 0.5])]
THETA = np.array([1.0, 2.0, 3.0])


def run(rule, gradients=GRADIENTS):
    states = [rule.start(THETA)]
    for gradient in gradients:
        states.append(rule.step(states[-1], gradient))
    return states


def test_sgd_matches_a_hand_written_reference():
    last = run(ServerRule("sgd", 0.1, rounds=3))[-1]
    expected = [
        ((t - 0.1 * a) - 0.1 * b) - 0.1 * c
        for t, a, b, c in zip(THETA.tolist(), *[g.tolist() for g in GRADIENTS], strict=True)
    ]
    assert last.theta.tolist() == expected
    assert last.steps == 3


def test_momentum_matches_a_hand_written_reference():
    states = run(ServerRule("momentum", 0.1, momentum=0.9, rounds=3))
    for j in range(3):
        theta, moment = float(THETA[j]), 0.0
        for state, gradient in zip(states[1:], GRADIENTS, strict=True):
            moment = 0.9 * moment + float(gradient[j])
            theta = theta - 0.1 * moment
            assert (state.theta[j], state.momentum[j]) == (theta, moment)


def test_adam_matches_a_hand_written_reference():
    states = run(ServerRule("adam", 0.1, momentum=0.9, rounds=3))
    for j in range(3):
        theta, first, second = float(THETA[j]), 0.0, 0.0
        for t, gradient in enumerate(GRADIENTS, start=1):
            g = float(gradient[j])
            first = 0.9 * first + 0.1 * g
            second = 0.999 * second + 0.001 * g * g
            corrected = math.sqrt(second / (1 - 0.999**t))
            theta -= 0.1 * (first / (1 - 0.9**t)) / (corrected + 1e-8)
            assert states[t].theta[j] == pytest.approx(theta, rel=1e-12)


def test_adam_matches_torch():
    torch = pytest.importorskip("torch")
    value = torch.tensor(THETA, requires_grad=True)
    optimiser = torch.optim.Adam([value], lr=0.05)
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(50, 3))
    for gradient in gradients:
        value.grad = torch.tensor(gradient)
        optimiser.step()
    last = run(ServerRule("adam", 0.05, momentum=0.9, rounds=50), gradients)[-1]
    assert last.theta == pytest.approx(value.detach().numpy(), rel=1e-12)


def test_the_release_averages_the_iterates_of_the_last_part():
    rule = ServerRule("sgd", 0.1, average_from=0.5, rounds=4)
    states = run(rule, [*GRADIENTS, GRADIENTS[0]])
    assert rule.released(states[2]).tolist() == states[2].theta.tolist()
    assert [state.averaged for state in states] == [0, 0, 0, 1, 2]
    mean = (states[3].theta + states[4].theta) / 2
    assert rule.released(states[4]) == pytest.approx(mean, rel=1e-15)


def test_averaging_from_one_is_off_and_from_zero_is_everything_but_the_start():
    off = ServerRule("sgd", 0.1, average_from=1.0, rounds=3)
    states = run(off)
    assert off.released(states[-1]).tolist() == states[-1].theta.tolist()
    whole = ServerRule("sgd", 0.1, average_from=0.0, rounds=3)
    mean = np.mean([state.theta for state in states[1:]], axis=0)
    assert whole.released(run(whole)[-1]) == pytest.approx(mean, rel=1e-15)


def test_a_step_leaves_its_arguments_alone_and_its_result_read_only():
    rule = ServerRule("momentum", 0.1)
    theta, gradient = THETA.copy(), GRADIENTS[0].copy()
    state = rule.start(theta)
    before = state.digest
    after = rule.step(state, gradient)
    theta[0] = gradient[0] = 99.0
    assert state.digest == before
    assert after.digest == rule.step(rule.start(THETA), GRADIENTS[0]).digest
    with pytest.raises(ValueError, match="read-only"):
        after.theta[0] = 0.0


def test_a_diverging_model_ends_the_run_with_a_remedy():
    rule = ServerRule("sgd", 1e300)
    with pytest.raises(RoundAborted) as caught:
        rule.step(rule.start(THETA), np.array([1e300, 0.0, 0.0]))
    assert caught.value.code == "learn.diverged"
    assert not caught.value.retryable
    assert "learning_rate" in caught.value.remedy


def test_a_gradient_of_another_length_is_refused():
    rule = ServerRule("sgd", 0.1)
    with pytest.raises(ValueError, match="as long as theta"):
        rule.step(rule.start(THETA), np.zeros(1))


@pytest.mark.parametrize(
    "change",
    [
        {"optimiser": "lbfgs"},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"momentum": 1.0},
        {"average_from": 1.5},
        {"rounds": 0},
    ],
)
def test_senseless_rules_are_refused(change):
    with pytest.raises(ValueError, match=r"must|unknown"):
        ServerRule(**{"optimiser": "sgd", "learning_rate": 0.1} | change)


def test_every_part_of_the_state_is_in_its_digest():
    state = run(ServerRule("adam", 0.1, average_from=0.0, rounds=3))[-1]
    parts = {name: getattr(state, name) for name in ServerState.__dataclass_fields__}
    for name, value in parts.items():
        changed = ServerState(**parts | {name: value + 1 if isinstance(value, int) else -value})
        assert changed.digest != state.digest, name


def test_bytes_that_are_no_state_are_refused():
    data = run(ServerRule("momentum", 0.1))[-1].to_bytes()
    broken = [b"", data[:-1], data[:-8], data + b"\0", data + bytes(8), b"x" + data[1:], data[:10]]
    broken.append(data[:-8] + np.array([np.nan]).tobytes())
    more_averaged_than_steps = data.index(b"\0") + 1 + 8
    broken.append(data[:more_averaged_than_steps] + b"\x09" + data[more_averaged_than_steps + 1 :])
    for bad in broken:
        with pytest.raises(DecodeError):
            ServerState.from_bytes(bad)


def test_the_cosine_schedule_falls_from_the_full_rate_towards_zero():
    rule = ServerRule("sgd", 0.2, rounds=4, schedule="cosine")
    states = run(rule, [np.ones(3)] * 5)
    steps = [float(a.theta[0] - b.theta[0]) for a, b in pairwise(states)]
    expected = [0.2 * (1 + math.cos(math.pi * done / 4)) / 2 for done in (0, 1, 2, 3, 4)]
    assert steps == pytest.approx(expected, abs=1e-15)


def test_the_clip_scale_follows_the_quantile():
    rule = ServerRule("sgd", 0.1, rounds=9, clip_quantile=0.5, clip_rate=0.2)
    state = rule.start(THETA)
    assert state.clip_scale == 1.0
    assert rule.step(state, THETA, 1.0).clip_scale == pytest.approx(0.9)  # too many short: tighter
    assert rule.step(state, THETA, 0.0).clip_scale == pytest.approx(1.1)
    assert rule.step(state, THETA, 0.5).clip_scale == 1.0
    assert rule.step(state, THETA).clip_scale == 1.0
    for _ in range(500):
        state = rule.step(state, np.zeros(3), 1.0)
    assert state.clip_scale == 2.0**-40


def test_the_clip_scale_is_part_of_the_state():
    one, other = (ServerState(THETA, THETA, THETA, THETA, 0, 1, scale) for scale in (1.0, 1.1))
    assert one.digest != other.digest
    assert ServerState.from_bytes(other.to_bytes()).clip_scale == 1.1


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 2.0**41])
def test_a_clip_scale_out_of_range_is_not_decoded(scale):
    with pytest.raises(DecodeError):
        ServerState.from_bytes(ServerState(THETA, THETA, THETA, THETA, 0, 1, scale).to_bytes())


@pytest.mark.parametrize(
    "change", [{"schedule": "linear"}, {"clip_quantile": 1.5}, {"clip_rate": 1.0}]
)
def test_senseless_schedules_are_refused(change):
    with pytest.raises(ValueError, match=r"must|unknown"):
        ServerRule("sgd", 0.1, rounds=3, **change)
