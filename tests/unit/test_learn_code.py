"""From a job's model key to a model: code identity and typed errors."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from tacit.errors import ConfigError
from tacit.learn import code
from tacit.learn.code import code_digest, load_model
from tacit.learn.models import LogisticRegression

NET = b"""
from torch import nn

class Net(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.layer = nn.Linear(features, classes)

    def forward(self, x):
        return self.layer(x)
"""


def load(folder, source=NET, spec="model.py:Net"):
    pytest.importorskip("torch")
    (folder / "model.py").write_bytes(source)
    return load_model(spec, folder, features=3, classes=2)


def refused(folder, source=NET, spec="model.py:Net"):
    with pytest.raises(ConfigError) as caught:
        load(folder, source, spec)
    return caught.value


def test_the_shipped_model_is_pinned_to_the_shipped_code(tmp_path, monkeypatch):
    loaded = load_model("logistic", tmp_path, features=30, classes=2)
    assert isinstance(loaded.model, LogisticRegression)
    assert loaded.model.dimension == 31
    assert loaded.pinned
    copy = tmp_path / "learn"
    shutil.copytree(code.Path(code.__file__).parent, copy)
    monkeypatch.setattr(code, "__file__", str(copy / "code.py"))
    assert load_model("logistic", tmp_path, features=1, classes=2).code == loaded.code
    with (copy / "server.py").open("ab") as file:
        file.write(b"\n")
    assert load_model("logistic", tmp_path, features=1, classes=2).code != loaded.code


def test_a_file_and_a_class_make_a_model(tmp_path):
    loaded = load(tmp_path)
    assert loaded.model.dimension == 8
    assert loaded.pinned
    assert loaded.code == code_digest([("model.py", NET)])


def test_any_changed_byte_changes_the_digest(tmp_path):
    before = load(tmp_path).code
    assert load(tmp_path, NET + b"#").code != before
    for position in range(len(NET)):
        changed = NET[:position] + bytes([NET[position] ^ 1]) + NET[position + 1 :]
        assert code_digest([("model.py", changed)]) != before
    assert code_digest([("model.pz", NET)]) != before


def test_the_digest_knows_where_one_file_ends():
    assert code_digest([("a", b"bc")]) != code_digest([("ab", b"c")])
    assert code_digest([("a", b"1"), ("b", b"2")]) == code_digest([("b", b"2"), ("a", b"1")])
    assert code_digest([("a", b"1"), ("b", b"2")]) != code_digest([("a", b"2"), ("b", b"1")])


def test_a_changed_file_is_loaded_afresh(tmp_path):
    assert load(tmp_path).model.dimension == 8
    bare = NET.replace(b"classes)\n\n", b"classes, bias=False)\n\n")
    assert load(tmp_path, bare).model.dimension == 6


def test_a_loss_in_the_file_replaces_cross_entropy(tmp_path):
    source = (
        NET + b"\ndef loss(logits, labels):\n    return (logits ** 2).sum() + 0 * labels.sum()\n"
    )
    model = load(tmp_path, source).model
    assert model.loss(np.zeros(8), np.ones((2, 3)), np.array([0, 1])) == 0.0


def test_a_missing_file_is_named(tmp_path):
    error = refused(tmp_path, spec="net.py:Net")
    assert error.code == "file.read"
    assert str(tmp_path / "net.py") in error.message


def test_a_missing_class_is_named_with_the_nearest_one(tmp_path):
    error = refused(tmp_path, spec="model.py:Nett")
    assert error.code == "learn.model-name"
    assert "Nett" in error.message
    assert "'Net'" in error.remedy


def test_a_name_that_is_no_module_is_refused(tmp_path):
    error = refused(tmp_path, NET + b"\nOther = dict\n", spec="model.py:Other")
    assert error.code == "learn.model-name"


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "linear",
        "model.py",
        "model.py:",
        "model.txt:Net",
        "model.py:a b",
        "a:model.py:Net",
        "../model.py:Net",
        "/etc/model.py:Net",
        "sub/../../model.py:Net",
    ],
)
def test_a_spec_that_names_no_file_inside_the_job_is_refused(tmp_path, spec):
    with pytest.raises(ConfigError) as caught:
        load_model(spec, tmp_path, features=3, classes=2)
    assert caught.value.code == "learn.model-spec"
    assert caught.value.remedy


@pytest.mark.parametrize(
    "source",
    [
        b"def broken(:\n",
        b"raise RuntimeError('no')\n",
        b"raise SystemExit\n",
        b"\x00",
        NET.replace(b"features, classes):", b"features):"),
        NET.replace(b"super().__init__()", b"raise ValueError(1)"),
    ],
)
def test_code_that_fails_is_reported_with_its_file(tmp_path, source):
    error = refused(tmp_path, source)
    assert error.code == "learn.model-code"
    assert "model.py" in error.message


def test_a_syntax_error_names_the_line(tmp_path):
    assert "line 2" in refused(tmp_path, b"x = 1\ndef broken(:\n").message


def test_an_unsuitable_module_is_refused_with_its_file(tmp_path):
    error = refused(tmp_path, NET.replace(b"nn.Linear(features, classes)", b"nn.BatchNorm1d(3)"))
    assert error.code == "learn.module"
    assert "model.py" in error.message
    assert "GroupNorm" in error.remedy


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import tacit.learn as learn
from pathlib import Path
from tacit.errors import ConfigError
learn.load_model("logistic", Path("."), features=2, classes=2)
try:
    learn.load_model("model.py:Net", Path(sys.argv[1]), features=2, classes=2)
except ConfigError as error:
    print(error.code, error.remedy)
"""


def test_everything_but_a_job_s_own_module_works_without_torch(tmp_path):
    (tmp_path / "model.py").write_bytes(NET)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "learn.torch-missing pip install 'tacit[torch]'\n"
