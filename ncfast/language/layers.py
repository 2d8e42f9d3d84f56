"""The features of every layer of a model, out of one forward pass that makes no logits."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .errors import LanguageError
from .models import LanguageModel
from .modes import eval_mode


class LayerFeatures:
    """Compute, beside a model's features, the hidden states after each of its layers.

    Layer 0 is what enters the first block (the embeddings), layer L the output of the last one. A
    causal model's body ends in a norm that only its last hidden state goes through; with ``lens``
    the other layers go through it too, as in a logit lens, so that head rows meet the vectors they
    would multiply if the model stopped there.

    Args:
        model: the model.
        layers: numbers of layers, or ``"all"``; below 0 counts from the end.
        lens: send every layer through the body's final norm, where it has one.

    Attributes:
        numbers: the layers, in rising order.
        count: how many layers the model has, the embeddings not counted.
        width: how many numbers a hidden state has.
        norm: the body's final norm, or None.

    Raises:
        LanguageError: the model gives no hidden states, or has no such layer.
    """

    def __init__(
        self, model: LanguageModel, layers: str | Sequence[int] = "all", lens: bool = True
    ) -> None:
        self.model, self.lens = model, lens
        self.norm: nn.Module | None = None
        states = self._find_body()
        self.count = len(states) - 1
        self.width = states[-1].shape[-1]
        if any(state.shape[-1] != self.width for state in states):
            widths = sorted({state.shape[-1] for state in states})
            raise LanguageError(
                f"the layers of {model.name} have different widths ({widths}); expected one width"
            )
        self.numbers = _chosen(layers, self.count, model.name)

    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, Iterator[torch.Tensor]]:
        """Return the model's features [B, T, D], and the layers' [B, T, width], one by one."""
        with _hidden_states(self.body) as captured:
            features = self.model.features(input_ids, attention_mask)
        return features, self._chosen_of(captured)

    def _chosen_of(self, captured: dict[str, Any]) -> Iterator[torch.Tensor]:
        states = _states(captured, self.model.name)
        for number in self.numbers:
            state = states[number]
            if self.norm is not None and self.lens and number < self.count:
                state = self.norm(state)
            yield state

    def _find_body(self) -> list[torch.Tensor]:
        """Find the module that gives hidden states: the body, or (OPT) the decoder inside it."""
        whole = _body(self.model)
        inside = [
            child
            for child in whole.children()
            if any(isinstance(part, nn.ModuleList) for part in child.children())
        ]
        for self.body in (whole, *inside):
            with contextlib.suppress(LanguageError):
                return self._probe()
        raise LanguageError(
            f"{self.model.name} gives no hidden states of its layers; expected a model whose body "
            "takes output_hidden_states"
        )

    @torch.no_grad()
    def _probe(self) -> list[torch.Tensor]:
        """Run two tokens: how many layers there are, and whether the body ends in a norm."""
        ids = torch.zeros(1, 2, dtype=torch.int64, device=self.model.device)
        ends: dict[nn.Module, torch.Tensor] = {}
        norms = [m for m in self.body.children() if "norm" in type(m).__name__.lower()]
        handles = [m.register_forward_hook(_keep(ends)) for m in norms]
        try:
            with eval_mode(self.model.model), _hidden_states(self.body) as captured:
                self.model.features(ids, torch.ones_like(ids))
        finally:
            for handle in handles:
                handle.remove()
        states = _states(captured, self.model.name)
        for module, end in ends.items():
            if end.shape == states[-1].shape and torch.equal(end, states[-1]):
                self.norm = module
        return states


def _keep(ends: dict[nn.Module, torch.Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            ends[module] = output

    return hook


def _body(model: LanguageModel) -> nn.Module:
    inner = model.model
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return inner if model.kind == "encoder" else inner.base_model


@contextlib.contextmanager
def _hidden_states(body: nn.Module) -> Iterator[dict[str, Any]]:
    """Ask the body for its hidden states, whoever calls it and whatever they ask for."""
    captured: dict[str, Any] = {}

    def ask(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {**kwargs, "output_hidden_states": True, "return_dict": True}

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        captured["output"] = output

    handles = [
        body.register_forward_pre_hook(ask, with_kwargs=True),
        body.register_forward_hook(keep),
    ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _states(captured: dict[str, Any], name: str) -> list[torch.Tensor]:
    output = captured.get("output")
    states = getattr(output, "hidden_states", None)
    if not states or len(states) < 2:
        raise LanguageError(
            f"{name} gives no hidden states of its layers; expected a model whose body takes "
            "output_hidden_states"
        )
    # What the body returns last is what the head goes on from, its final norm included.
    return [*states[:-1], output.last_hidden_state]  # type: ignore[union-attr]


def parse_layers(text: str) -> str | list[int]:
    """Read ``all``, or numbers and ranges: ``0,4,8-11,-1``; LanguageError if it is neither.

    >>> parse_layers("0,4-6,-1"), parse_layers("all")
    ([0, 4, 5, 6, -1], 'all')
    """
    if text.strip() == "all":
        return "all"
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(-?\d{1,5})(?:-(\d{1,5}))?\s*", part)
        if not found or (found[2] and not 0 <= int(found[1]) <= int(found[2])):
            raise LanguageError(f"layers: {part!r}; expected 'all' or numbers such as 0,4,8-11,-1")
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return numbers


def _chosen(layers: str | Sequence[int], count: int, name: str) -> list[int]:
    if isinstance(layers, str):
        layers = parse_layers(layers)
    if layers == "all":
        return list(range(count + 1))
    for number in layers:
        if not -count - 1 <= int(number) <= count:
            raise LanguageError(
                f"layers: {number}; {name} has layers 0 (its embeddings) to {count}"
            )
    chosen = sorted({int(number) % (count + 1) for number in layers})
    if not chosen:
        raise LanguageError("layers: none given; expected 'all' or numbers")
    return chosen
