"""The server step is elementwise and its state survives encoding bit for bit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import DecodeError
from tacit.learn.server import ServerRule, ServerState

CASES = {
    "optimiser": st.sampled_from(["sgd", "momentum", "adam"]),
    "average_from": st.sampled_from([0.0, 0.3, 1.0]),
    "d": st.integers(1, 70),
    "seed": st.integers(0, 2**32),
}


def run(rule, theta, gradients):
    state = rule.start(theta)
    for gradient in gradients:
        state = rule.step(state, gradient)
    return state


@given(**CASES)
def test_steps_are_elementwise(optimiser, average_from, d, seed):
    rng = np.random.default_rng(seed)
    rule = ServerRule(optimiser, 0.7, momentum=0.9, average_from=average_from, rounds=6)
    theta, gradients = rng.normal(size=d), rng.normal(size=(6, d))
    whole = run(rule, theta, gradients)
    assert whole.digest == run(rule, theta, gradients).digest
    order = rng.permutation(d)
    moved = run(rule, theta[order], gradients[:, order])
    single = int(rng.integers(d))
    alone = run(rule, theta[single : single + 1], gradients[:, single : single + 1])
    for name in ("theta", "momentum", "second_moment", "average"):
        assert getattr(moved, name).tobytes() == getattr(whole, name)[order].tobytes()
        assert getattr(alone, name)[0].tobytes() == getattr(whole, name)[single].tobytes()


@given(**CASES)
def test_a_state_survives_encoding(optimiser, average_from, d, seed):
    rng = np.random.default_rng(seed)
    rule = ServerRule(optimiser, 0.7, average_from=average_from, rounds=4)
    state = run(rule, rng.normal(size=d), rng.normal(size=(3, d)))
    again = ServerState.from_bytes(state.to_bytes())
    assert again.digest == state.digest
    gradient = rng.normal(size=d)
    assert rule.step(again, gradient).digest == rule.step(state, gradient).digest


@given(data=st.binary(max_size=200), flip=st.integers(0, 1000), seed=st.integers(0, 2**32))
def test_only_decode_errors_leave_the_decoder(data, flip, seed):
    theta = np.random.default_rng(seed).normal(size=3)
    honest = bytearray(ServerRule("sgd", 0.1).start(theta).to_bytes())
    honest[flip % len(honest)] ^= 1 + seed % 255
    for candidate in (data, bytes(honest)):
        try:
            state = ServerState.from_bytes(candidate)
        except DecodeError:
            continue
        assert state.to_bytes() == candidate
