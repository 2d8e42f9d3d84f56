"""A Lightning callback that logs neural collapse of whatever features a module gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback
from torch import Tensor

from .torchmetrics import NeuralCollapse


class NeuralCollapseLogger(Callback):
    """Measure a validation epoch and log ``nc/*``.

    Args:
        metric: what to accumulate.
        features: (module, batch) -> features [N, D] and labels [N].

    >>> metric = NeuralCollapse(num_classes=3, dim=4)
    >>> callback = NeuralCollapseLogger(metric, lambda module, batch: batch)
    """

    def __init__(
        self, metric: NeuralCollapse, features: Callable[[Any, Any], tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__()
        self.metric, self.features = metric, features

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start anew."""
        self.metric.reset()

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Add a batch."""
        self.metric.to(pl_module.device).update(*self.features(pl_module, batch))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the metrics."""
        found = self.metric.compute()  # of one key by name it is a tensor
        values = found if isinstance(found, dict) else {self.metric.keys_shown[0]: found}
        pl_module.log_dict({f"nc/{key}": value.float() for key, value in values.items()})
