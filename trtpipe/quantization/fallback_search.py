"""Higher-precision fallback: keep the few groups of nodes that make most of the noise; no labels are needed.

Rounding errors of different layers nearly add up in power (see ``sensitivity``), and they are very uneven:
often one group, a spectrogram at the front or a narrow head at the end, makes most of the noise and little of the work.

Two reasons to keep groups: a little work that makes most of the noise, which is worth it by itself; and outputs beyond
the tolerance that verification will apply, which have to be brought within it, as far as the least coverage allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.corrections import CorrectionTrial, Fallback
from trtpipe.passes.decisions import LEAST_SHARE, SENSITIVE
from trtpipe.quantization.correction_search import ENOUGH
from trtpipe.quantization.layer_search import LayerTrial, Search
from trtpipe.quantization.output_noise import OutputNoise, noise_alone
from trtpipe.quantization.range_search import surely_less
from trtpipe.quantization.sensitivity import GroupSensitivity
from trtpipe.quantization.simulator import open_simulator
from trtpipe.reference.reference_outputs import run_every

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.calibration.corrections import Corrections
    from trtpipe.config.stage_settings import GateSettings
    from trtpipe.progress import Progress
    from trtpipe.quantization.correction_search import Found, TrialSamples
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.output_gate import Reference
    from trtpipe.quantization.plan import QuantizationPlan
    from trtpipe.quantization.simulator import LayerGroup, SimulatorSession

#: dB: outputs noisier than this are worth a little work; ...
POOR = -25.0
#: Share of the multiply-accumulates that may be kept in higher precision for it; with ``ENOUGH`` no more is kept.
MOST_WORK = 0.1
#: dB that it must gain: where it takes the model below the share in 8 bits that is aimed at, and elsewhere; and by how
#: many standard errors over the feeds: fewer than other corrections need, because a node that is kept in higher
#: precision needlessly costs a little time and no accuracy.
_GAIN_BELOW, _GAIN, _SIGMAS = 6.0, 3.0, 2.0
#: Runs of the model for all groups together, and feeds for each of them: at least, and at most.
_RUNS, _FEWEST, _MOST_FEEDS = 128, 2, 16
#: Choices of groups that are judged by the gate, at most.
_EVALUATIONS = 6


def find_fallback(
    plan: QuantizationPlan,
    graph: CountedGraph,
    found: Found,
    gate: GateSettings,
    workdir: Path,
    progress: Progress,
) -> Corrections:
    """The corrections of ``plan``, and with them the groups to keep in higher precision, if that helps.

    Args:
        plan: with ranges and corrections.
        found: those corrections, and the samples to judge on.
        gate: what the outputs have to hold.
    """
    corrections, least = found.corrections, gate.least_coverage
    if corrections.noise is None or (corrections.noise <= POOR and found.used <= 1):
        return corrections
    with open_simulator(graph, plan, workdir) as session:
        if not session.groups:
            return corrections
        return _Fallback(session, found, found.samples.reference(gate), least, progress).run()


@dataclass(frozen=True)
class _Choice:
    """Groups that are kept, and what was tried to find them."""

    kept: tuple[int, ...]
    trials: tuple[CorrectionTrial, ...]
    held: bool = True


class _Fallback:
    """One search, on an open simulator."""

    def __init__(
        self, session: SimulatorSession, found: Found, reference: Reference, least: float, progress: Progress
    ) -> None:
        self._session, self._found, self._reference, self._progress = session, found, reference, progress
        self._least = least
        self._judged: dict[tuple[int, ...], tuple[np.ndarray, float]] = {}
        self._alone = self._noise_alone(found.samples)
        self._groups = tuple(
            GroupSensitivity(
                name=group.nodes[0], nodes=group.nodes, operators=group.operators, macs=group.macs, noise=noise
            )
            for group, noise in zip(session.groups, self._alone, strict=True)
        )
        self._total = sum(group.macs for group in session.groups)

    def run(self) -> Corrections:
        """Keep what is worth it; then, while the outputs are beyond tolerance, what brings them within it."""
        corrections = self._found.corrections
        choice = self._worth_it() if corrections.noise is not None and corrections.noise > POOR else _Choice((), ())
        if (self._judge(choice.kept)[1] if choice.kept else self._found.used) > 1:
            choice = self._within_tolerance(choice)
        whole = self._total + self._session.not_lowered
        work = sum(self._groups[index].macs for index in choice.kept)
        fallback = Fallback(
            groups=len(choice.kept),
            work=work / max(whole, 1),
            held=choice.held,
            least_coverage=self._least,
        )
        return corrections.model_copy(
            update={
                "trials": (*corrections.trials, *choice.trials),
                "kept": self._reasons(choice.kept),
                "fallback": fallback if choice.kept or not choice.held else None,
            }
        )

    def _noise_alone(self, samples: TrialSamples) -> list[float]:
        count = min(max(_RUNS // len(self._session.groups), _FEWEST), _MOST_FEEDS, max(len(samples.feeds) // 2, 1))
        feeds, expected = samples.feeds[::2][:count], samples.expected[::2][:count]
        noise = OutputNoise(expected, samples.compared)
        if not noise.informative:
            return [0.0] * len(self._session.groups)
        return noise_alone(self._session, noise, feeds, self._progress, "fallback")

    def _worth_it(self) -> _Choice:
        """The groups that make most of the noise with little work; found on other feeds than they are judged on."""
        groups, held = self._session.groups, slice(1, None, 2)
        kept = tuple(sorted(sensitive(groups, self._alone, MOST_WORK * self._total)))
        if not kept or len(self._found.noise) < 2:
            return _Choice((), ())
        noise = self._judge(kept)[0]
        left = self._total - sum(groups[index].macs for index in kept)
        least = LEAST_SHARE * (self._total + self._session.not_lowered)
        gain = _GAIN_BELOW if left < least <= self._total else _GAIN
        taken = surely_less(noise[held], self._found.noise[held], gain, _SIGMAS)
        return _Choice(kept if taken else (), (self._trial(kept, taken=taken),))

    def _within_tolerance(self, before: _Choice) -> _Choice:
        """The least work that brings the outputs within tolerance, or else the best that the least coverage allows."""
        search = Search(
            self._groups,
            lambda kept: self._judge(kept)[1],
            allowed=1.0,
            most=_EVALUATIONS,
            exact=self._least == 0,
            limit=int((1 - self._least) * self._total),
            trials=[LayerTrial(kept=(), loss=self._found.used, holds=self._found.used <= 1)],
        )
        kept = search.run()
        chosen = search.everything if kept is None else kept
        if not chosen:
            return _Choice((), before.trials, held=kept is not None)
        dropped = tuple(trial.model_copy(update={"taken": False}) for trial in before.trials)
        return _Choice(chosen, (*dropped, self._trial(chosen, taken=True)), held=kept is not None)

    def _judge(self, kept: tuple[int, ...]) -> tuple[np.ndarray, float]:
        """Of every feed the noise in dB, and the share of the tolerance that is used, with these groups kept."""
        if kept not in self._judged:
            session, feeds = self._session, self._found.samples.feeds
            rest = [index for index in range(len(session.groups)) if index not in kept]
            results = run_every(session.set(rest, runs=len(feeds)), feeds, session.scales(session.plan.limits))
            self._judged[kept] = self._reference.evaluate(results)
        return self._judged[kept]

    def _trial(self, kept: tuple[int, ...], *, taken: bool) -> CorrectionTrial:
        name = f"{len(kept)} of {len(self._session.groups)} groups in higher precision"
        return CorrectionTrial(correction=name, noise=float(self._judge(kept)[0].mean()), taken=taken)

    def _reasons(self, kept: tuple[int, ...]) -> dict[str, str]:
        total = max(sum(self._alone), 1e-12)
        return {
            node: f"{SENSITIVE}: quantized alone, {10 * np.log10(max(self._alone[index], 1e-12)):.1f} dB noise over "
            f"signal at the outputs; kept, it saves {100 * self._alone[index] / total:.1f} % of their noise"
            for index in kept
            for node in self._session.groups[index].nodes
        }


def sensitive(groups: Sequence[LayerGroup], alone: Sequence[float], most: float) -> frozenset[int]:
    """The groups to keep in higher precision.

    Most noise for their work first, until the rest is quiet enough, or the multiply-accumulates are spent.

    Args:
        alone: noise over signal power of each group by itself.
        most: multiply-accumulates that may be kept.
    """
    left, spent, kept = float(sum(alone)), 0, set[int]()
    for index in sorted(range(len(groups)), key=lambda each: (-alone[each] / max(groups[each].macs, 1), each)):
        if left <= 10 ** (ENOUGH / 10):
            break
        if spent + groups[index].macs <= most:
            kept.add(index)
            spent += groups[index].macs
            left -= alone[index]
    return frozenset(kept)
