"""The mode of every module of a model, which one flag of the whole cannot tell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module of a model back into its own mode.

    ``model.train()`` would put all into one: a part that its user has frozen in eval mode would
    draw dropout from then on.

    >>> model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    >>> _ = model[0].eval()
    >>> with modes_kept(model):
    ...     _ = model.train()
    >>> [part.training for part in model]
    [False, True]
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode for a while, and back into its own.

    >>> model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    >>> with eval_mode(model):
    ...     model[0].training
    False
    >>> model[0].training
    True
    """
    with modes_kept(model):
        model.eval()
        yield
