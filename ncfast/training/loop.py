"""The training loop: batches, loss, gradients, step, line of the log, checkpoint."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError
from ..language.modes import modes_kept
from ..metrics import neural_collapse
from ..running.progress import BAR, fitting_numbers, stop_request
from ..statistics import ClassStatistics
from .batches import TrainingBatches
from .checkpoints import load_checkpoint, newest_checkpoint, processes_of, save_checkpoint
from .gradients import gradient_norm
from .log import StepLog
from .loss_check import check_loss
from .objective import Objective, StepResult
from .optimisers import learning_rate

LOGGED = ("unc3_std", "nc3_mean", "nc1_quotient", "cdnv_mean", "log_distance_mean")


class TrainingInterrupted(KeyboardInterrupt):
    """Tell that a run stopped on request after saving."""


@dataclass(frozen=True)
class LoopSettings:
    """Say how long and how fast to train, and what to keep.

    >>> LoopSettings(steps=10).schedule
    'linear'
    """

    steps: int  # optimiser steps in all
    lr: float = 5e-5  # highest learning rate
    schedule: str = "linear"  # ``"linear"``, ``"cosine"`` or ``"constant"``
    warmup: int = 0  # steps over which the rate rises
    clip: float = 1.0  # largest length of the gradient; 0 does not clip
    # steps between two lines with neural-collapse metrics, which are over the tokens that the terms
    # saw since the line before, and with the terms' share of the gradient; 0 for none
    metrics_every: int = 50
    save_every_seconds: float = 300.0  # time between checkpoints
    progress: bool = True  # show a bar on stderr

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}; expected at least 1")
        for name in ("warmup", "clip", "metrics_every", "save_every_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}; expected 0 or more")


@dataclass
class Training:
    """Train a model: the same curve to the last digit, interrupted or not."""

    objective: Objective  # model and loss
    optimizer: torch.optim.Optimizer  # of the model's parameters
    batches: TrainingBatches  # gives the batch of any step
    settings: LoopSettings  # how long, how fast
    folder: Path | None = None  # where checkpoints and ``steps.jsonl`` go; None keeps nothing
    # what decides the run; saved with checkpoints and compared on resuming
    identity: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0  # steps done
    ran: int = 0  # steps done by this process
    # how many shared the run that was resumed; None for one from the start
    processes_before: int | None = None

    def __post_init__(self) -> None:
        """Set up what the metrics of the log are computed from."""
        model = self.objective.model
        sets = [term.class_means.ids.cpu() for term in self.objective.terms.values()]
        self._window: ClassStatistics | None = None
        if sets and self.settings.metrics_every:
            ids = torch.unique(torch.cat(sets))
            wide = model.head_weight.dtype == torch.float64
            self._window = ClassStatistics(
                model.vocab_size,
                model.hidden_size,
                ids,
                scatter=False,
                dtype=torch.float64 if wide else torch.float32,
                device=model.device,
            )

    def resume(self) -> bool:
        """Go back to the newest checkpoint of the folder, of this run, if any; tell whether."""
        found = None if self.folder is None else newest_checkpoint(self.folder)
        if found is None:
            return False
        before = processes_of(found)
        model, terms = self.objective.model.model, self.objective.terms
        self.step = load_checkpoint(
            found,
            self.identity,
            model,
            self.optimizer,
            terms,
            accumulated=self._tensors(self._window),
        )
        self.processes_before = before
        if self.step > self.settings.steps:
            raise DataError(
                f"{found} is of step {self.step}; expected at most {self.settings.steps}"
            )
        if self.objective.ranks.rank and self._window is not None:
            self._window.reset()  # what all ranks have seen is in the first one's
        return True

    def save(self) -> None:
        """Save a checkpoint; every rank calls it, and the first one writes."""
        if self.folder is None:
            return
        window = self._window
        if window is not None and self.objective.ranks.size > 1:
            window = copy.deepcopy(window)
            self.objective.ranks.exchange(window.all_reduce)
        if self.objective.ranks.rank:
            return
        model, terms = self.objective.model.model, self.objective.terms
        save_checkpoint(
            self.folder,
            self.step,
            self.identity,
            model,
            self.optimizer,
            modules=terms,
            accumulated=self._tensors(window),
            processes=self.objective.ranks.size,
        )

    def other_processes(self) -> str:
        """Say that another number of processes goes on with a run, and what this changes, if so."""
        now, before = self.objective.ranks.size, self.processes_before
        if before in (None, now):
            return ""
        return (
            f"processes: {before} before step {self.step + 1}, {now} from there on; dropout draws "
            "other units and sums are rounded otherwise than without the change"
        )

    def _tensors(self, window: ClassStatistics | None) -> dict[str, torch.Tensor]:
        own = {} if self.objective.own is None else self.objective.own.state()
        return _tensors(window) | {f"own/{name}": value for name, value in own.items()}

    def run(self) -> None:
        """Train to the last step, saving now and then and at the end.

        Ctrl-C and SIGTERM save a checkpoint, and are then a TrainingInterrupted. A loss or gradient
        that is not finite is a DataError that names the step.
        """
        language = self.objective.model
        model = language.model
        quiet = self.folder is None or self.objective.ranks.rank > 0
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        log = StepLog(None if quiet else self.folder / "steps.jsonl", self.step)  # type: ignore[operator]
        saved_at, last_save = self.step, time.perf_counter()
        try:
            with modes_kept(model), self._bar() as show, stop_request() as stopping:
                model.train()
                while self.step < self.settings.steps:
                    line = self.one_step()
                    log.write(line)
                    show(line)
                    late = time.perf_counter() - last_save >= self.settings.save_every_seconds
                    # A signal reaches one rank, and clocks differ: saving is a thing of all.
                    flags = torch.tensor([stopping(), late], device=language.device).int()
                    stop, due = self.objective.ranks.any_of(flags)
                    if stop or due or self.step == self.settings.steps:
                        log.sync()
                        self.save()
                        saved_at, last_save = self.step, time.perf_counter()
                    if stop and self.step < self.settings.steps:
                        raise TrainingInterrupted(
                            f"stopped after {saved_at} of {self.settings.steps} steps"
                        )
        finally:
            log.close()

    def one_step(self) -> dict[str, Any]:
        """Train one step, and neither log nor save it; return its line of the log.

        The loss of the first step of a process and of the last step is compared with the model's
        own on a few dozen tokens first: what a model's class computes is what is trained.
        """
        start = time.perf_counter()
        settings, model = self.settings, self.objective.model.model
        ranks = self.objective.ranks
        every = settings.metrics_every
        measured = bool(every and self.objective.terms and (self.step + 1) % every == 0)
        batch = self.batches(self.step, ranks.rank, ranks.size)
        if self.ran == 0 or self.step + 1 == settings.steps:
            check_loss(
                self.objective.model,
                batch.input_ids,
                batch.attention_mask,
                batch.labels,
                f"step {self.step + 1}",
            )
        self.optimizer.zero_grad(set_to_none=True)
        result = self.objective.backward(batch, self.step, measure_share=measured)
        norm = self._clip(model)
        if not (math.isfinite(result.loss) and math.isfinite(norm)):
            raise DataError(
                f"step {self.step + 1}: the loss is {result.loss:g} and the gradient's length "
                f"{norm:g}; expected finite numbers: a smaller learning rate or term may help"
            )
        rate = learning_rate(
            settings.schedule, settings.lr, self.step, settings.steps, settings.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        self.ran += 1
        return self._line(result, norm, rate, measured, time.perf_counter() - start)

    def _clip(self, model: torch.nn.Module) -> float:
        norm = gradient_norm(model)
        if self.settings.clip and norm > self.settings.clip:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.settings.clip / norm)
        return norm

    def _line(
        self, result: StepResult, norm: float, rate: float, measured: bool, seconds: float
    ) -> dict[str, Any]:
        line: dict[str, Any] = {
            "step": self.step,
            "epoch": self.batches.epoch_of(self.step - 1),
            "loss": result.loss,
            "cross_entropy": result.cross_entropy,
            "predicted": result.predicted,
            **{f"{n}/{key}": v for n, last in result.terms.items() for key, v in last.items()},
            "lr": rate,
            "gradient_norm": norm,
        }
        if self._window is not None and result.seen is not None:
            # As they are: the statistics note how coarse their features were stored.
            self._window.update(result.seen[0].detach(), result.seen[1])
        if measured and self._window is not None:
            if self.objective.ranks.size > 1:
                self.objective.ranks.exchange(self._window.all_reduce)
            weight = self.objective.model.head_weight.detach()
            if int((self._window.counts > 0).sum()) >= 2:
                report = neural_collapse(self._window, head_weight=weight)
                line |= {f"nc/{key}": report[key] for key in LOGGED if key in report}
            self._window.reset()
            if result.term_norm is not None:
                line["terms_gradient_norm"] = result.term_norm
                line["terms_gradient_share"] = result.term_norm / norm if norm else 0.0
        return line | {"seconds": seconds}

    @contextmanager
    def _bar(self) -> Iterator[Callable[[Mapping[str, Any]], object]]:
        if not self.settings.progress or self.objective.ranks.rank:
            yield lambda line: None
            return
        from tqdm import tqdm

        with tqdm(
            total=self.settings.steps,
            initial=self.step,
            unit=" steps",
            desc="training",
            bar_format=BAR,
            dynamic_ncols=True,
            mininterval=0.2 if os.isatty(2) else 10.0,
        ) as bar:

            def show(line: Mapping[str, Any]) -> None:
                shown = {"loss": "cross_entropy"}
                shown |= {name: f"{name}/value" for name in self.objective.terms}
                shown |= {"unc3": "nc/unc3_std", "share": "terms_gradient_share"}
                found = {name: line[key] for name, key in shown.items() if key in line}
                bar.set_postfix_str(fitting_numbers(found, bar.ncols, bar.total), refresh=False)
                bar.update()

            yield show


def _tensors(window: ClassStatistics | None) -> dict[str, torch.Tensor]:
    names = ("counts", "means", "m2") if window is not None else ()
    return {f"window/{name}": getattr(window, name) for name in names}
