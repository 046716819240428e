"""Learning: features, models, per-record gradient sums, the server step and metrics.

Every per-record quantity is computed so that it depends, bit for bit, on its record and on public
values only. ``tacit.learn.torch_model`` needs PyTorch and is imported on demand.
"""

from tacit.learn.code import LoadedModel, load_model
from tacit.learn.feature_map import FeatureMap
from tacit.learn.features import scale_features
from tacit.learn.generated import generated_images
from tacit.learn.gradient_sum import unit_sum
from tacit.learn.layout import Entry, Layout
from tacit.learn.local import LocalSettings, local_update
from tacit.learn.metrics import accuracy, auc, evaluate
from tacit.learn.models import LogisticRegression, Model
from tacit.learn.prior import PublicPrior
from tacit.learn.record_metrics import MetricCode
from tacit.learn.scattering import Scattering
from tacit.learn.server import ServerRule, ServerState

__all__ = [
    "Entry",
    "FeatureMap",
    "Layout",
    "LoadedModel",
    "LocalSettings",
    "LogisticRegression",
    "MetricCode",
    "Model",
    "PublicPrior",
    "Scattering",
    "ServerRule",
    "ServerState",
    "accuracy",
    "auc",
    "evaluate",
    "generated_images",
    "load_model",
    "local_update",
    "scale_features",
    "unit_sum",
]
