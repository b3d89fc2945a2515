"""The optimizer step: all that happens between a batch and the weights after it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lapa import distributed
from lapa.config import TrainingConfig
from lapa.contracts import Clips, Progress, System, Terms
from lapa.device import autocast
from lapa.engine.schedule import learning_rate
from lapa.nn.losses import weighted_sum


class OptimizerStep:
    """Forward and backward over the parts of a batch, clipping, Adam; a step that is not finite leaves no trace.

    Args:
        system: what learns; on its device, and in training mode.
        loss: the configuration of its loss.
        options: learning rate, parts of a batch, norm, precision.
        parallel: what to call in place of the system; in a group, what averages gradients over ranks.
    """

    def __init__(self, system: System, loss: Any, options: TrainingConfig, parallel: nn.Module | None = None) -> None:
        self.system, self.loss, self.options = system, loss, options
        self.device = next(system.parameters()).device
        self._parallel = parallel or system
        # Adam (Kingma and Ba 2015), as one fused kernel.
        self.optimizer = torch.optim.Adam(system.parameters(), lr=options.learning_rate, fused=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.precision == "fp16")

    def __call__(self, clips: Clips, progress: float, stop: Callable[[], int] = lambda: 0) -> StepResult:
        """Takes one step.

        Args:
            clips: this rank's share of the batch, on the device.
            progress: share of the training that is done, in [0, 1]; a :class:`lapa.contracts.Progress`, or a float.
            stop: tells the number of the signal that this rank has received by then, or 0.
        """
        options, system, progress = self.options, self.system, Progress.of(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(options, progress)
        before = [buffer.clone() for buffer in system.buffers()]
        system.before_step(progress)
        result = StepResult(system)
        self.optimizer.zero_grad(set_to_none=True)
        parts = clips.chunk(options.accumulate)
        for index, part in enumerate(parts):
            inputs = system.inputs(part)
            with self._synchronized(is_last=index == len(parts) - 1):
                with autocast(self.device, options.precision):
                    output = self._parallel(*inputs)
                terms = system.terms(output, inputs, self.loss, progress)
                total = weighted_sum(terms)
                self.scaler.scale(total / len(parts)).backward()
            result.add(total, terms, output, inputs)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(system.parameters(), options.clip_norm)
        result.finish(norm, stop())
        if result.is_finite:
            self.scaler.step(self.optimizer)
            system.after_step()
        else:  # the forward pass has spoilt the running statistics already
            for buffer, kept in zip(system.buffers(), before, strict=True):
                buffer.copy_(kept)
        self.scaler.update()
        result.metrics["train/optim/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if self.scaler.is_enabled():
            result.metrics["train/optim/loss_scale"] = self.scaler.get_scale()
        return result

    def _synchronized(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Lets ranks exchange gradients in the last part of a batch alone."""
        if isinstance(self._parallel, DistributedDataParallel) and not is_last:
            return self._parallel.no_sync()
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know, beside the weights."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


class StepResult:
    """What one step gave, over all parts of its batch and all ranks.

    Attributes:
        metrics: ``train/*``, after :meth:`finish`.
        weights: of each term of the loss, by name.
        counts: of the readings, in sum, on the CPU.
        is_finite: whether the step was taken.
        stop: not 0 if a rank has received a signal.
        output: what the system gave for this rank's last part.
    """

    def __init__(self, system: System) -> None:
        self.metrics: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.counts: dict[str, Tensor] = {}
        self.is_finite = False
        self.stop = 0
        self.output: Any = None
        self._system = system
        self._sums: dict[str, Tensor] = {}
        self._parts = 0

    @torch.no_grad()
    def add(self, total: Tensor, terms: Terms, output: Any, inputs: tuple[Tensor, ...]) -> None:
        """Counts one part of the batch."""
        readings = self._system.readings(output, inputs)
        values = {"loss/total": total, **{f"loss/{name}": term for name, (_, term) in terms.items()}, **readings.means}
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        for name, counts in readings.counts.items():
            self.counts[name] = self.counts[name] + counts if name in self.counts else counts
        self._parts += 1
        self.output = output

    def finish(self, norm: Tensor, stop: int) -> None:
        """Combines the ranks, in one exchange, and moves all numbers to the host at once.

        Args:
            norm: of the gradient, the same on all ranks.
            stop: this rank's signal, or 0.
        """
        share = 1 / (self._parts * distributed.world_size())
        means = [*(value * share for value in self._sums.values()), norm / distributed.world_size()]
        signal = torch.tensor(float(stop), device=norm.device)
        counts = [count.to(norm.device).float() for count in self.counts.values()]
        numbers = distributed.summed(torch.cat([torch.stack([*means, signal]), *counts])).cpu()
        found = dict(zip([*self._sums, "norm"], numbers[: len(means)].tolist(), strict=True))
        self.stop = int(numbers[len(means)])
        sizes = [len(count) for count in counts]
        self.counts = dict(zip(self.counts, numbers[len(means) + 1 :].long().split(sizes), strict=True))
        loss, norm_value = found["loss/total"], found.pop("norm")
        self.is_finite = math.isfinite(loss) and math.isfinite(norm_value)
        losses = {f"train/{name}": found.pop(name) for name in list(found) if name.startswith("loss/")}
        self.metrics = {
            **losses,
            "train/optim/gradient_norm": norm_value,
            **self._system.metrics("train", found, self.counts),
        }
