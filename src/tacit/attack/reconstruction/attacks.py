"""Reconstruction attacks by what their column lets the adversary see."""

from __future__ import annotations

from tacit.attack.defences import DEFENCES, Defence
from tacit.attack.findings import Attack, Findings, OnProgress
from tacit.attack.reconstruction.opened import attack_opened
from tacit.attack.reconstruction.planted import attack_planted
from tacit.attack.reconstruction.private import attack_private
from tacit.attack.reconstruction.summed import attack_summed
from tacit.attack.workbench import Workbench

__all__ = ["ATTACKS", "reconstruct"]


def reconstruct(bench: Workbench, defence: Defence, on_progress: OnProgress) -> Findings:
    """Reconstructs single records from what the column's adversary sees of their updates."""
    if bench.job.training.local_layers:
        note = "Not measured: the model keeps layers at the sites, and the attacks need them."
        return Findings("leader", {}, (note,))
    if defence == "masking":
        return attack_summed(bench, defence, on_progress)
    if defence == "tacit":
        return attack_private(bench, defence, on_progress)
    return attack_opened(bench, defence, on_progress)


ATTACKS: tuple[Attack, ...] = (
    Attack("reconstruction", "records", reconstruct, DEFENCES),
    Attack("malicious-server", "planted-layer", attack_planted, DEFENCES),
)
