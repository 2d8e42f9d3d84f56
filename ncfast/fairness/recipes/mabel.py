"""Entailment pairs and their swapped copies drawn together: contrast, alignment, masked tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ...functional import linear_nll_lse
from ...language import Corpus, LanguageModel
from ...language.labels import IGNORE
from ...language.packing import block_size_of
from ...training import TrainingBatches
from .entailment import COLUMNS, EntailmentPairs, digest_of, read_pairs
from .recipe import Passes, Recipe, RecipeError

HEAD = "mabel_projection"  # of the model while it trains


@dataclass(frozen=True)
class Mabel(Recipe):
    r"""Draw premise and hypothesis together, and make a pair no nearer than its swapped copy.

    MABEL (He et al. 2022, EMNLP, arXiv 2210.14975, section 3), as its code weighs the terms:

    .. math:: L = L_{CL} + w_{AL} \, L_{AL} + w_{MLM} \, L_{MLM} + text \, L_{LM}

    of n entailment pairs with premises p, hypotheses h and their gender-swapped copies p', h':

    .. math:: L_{CL} = -\frac{1}{2 n} \sum_{i=1}^{2 n} \log
        \frac{e^{\cos(a_i, b_i) / \tau}}{\sum_j e^{\cos(a_i, b_j) / \tau}}, \qquad
        a = [p; p'], \quad b = [h; h']

    .. math:: L_{AL} = \frac{1}{n} \sum_{i, j}
        \left( \frac{\cos(p_i, h_j) - \cos(p'_i, h'_j)}{\tau} \right)^2

    A sentence is the last hidden state of its first token, through two linear layers with a tanh
    between them; these are trained, and not kept. :math:`L_{MLM}` is the mean negative
    log-likelihood of 15 % of the tokens of all four sentences, masked as BERT's. :math:`L_{LM}` is
    that of the text given, which the neural-collapse terms and perplexity are of. The paper writes
    the first two terms as a weighted mean, which scales :math:`L_{CL}` by 0.95 here.

    Args:
        pairs: a CSV file with the columns orig_sent0, orig_sent1, aug_sent0, aug_sent1: p, h,
            p', h'.
        alignment: w_AL.
        mlm: w_MLM.
        temperature: tau.
        text: weight of L_LM.
        rows: n, pairs in a step.
        length: tokens of a sentence, special ones included; the rest of it is left out. 0: 128, or
            what the model takes.

    Raises:
        RecipeError: an option that cannot be, or no file. Training raises it too where more than
            a tenth of the text that perplexity is of occurs among the pairs.

    >>> a, b = torch.eye(2), torch.eye(2)
    >>> round(float(contrastive_loss(a, b, 1.0)), 4)  # log(1 + 1 / e)
    0.3133
    >>> float(alignment_loss(a, b, a, b.flip(0), 1.0))
    2.0
    """

    name: ClassVar[str] = "mabel"
    kinds: ClassVar[tuple[str, ...]] = ("masked",)
    refused: ClassVar[str] = "its sentence vector is that of a first token which sees the others"
    needs: ClassVar[str] = f"a CSV file of entailment pairs with the columns {', '.join(COLUMNS)}"
    trains_on: ClassVar[tuple[str, ...]] = ("pairs",)
    pairs: str = ""
    alignment: float = 0.05
    mlm: float = 0.1
    temperature: float = 0.05
    text: float = 0.0
    rows: int = 32
    length: int = 0

    def __post_init__(self) -> None:
        """Reject what cannot be."""
        weights = {name: getattr(self, name) for name in ("alignment", "mlm", "text")}
        if bad := [f"{k}={v}" for k, v in weights.items() if not 0 <= v < float("inf")]:
            raise RecipeError(f"recipe 'mabel', option {bad[0]}; expected a weight of 0 or more")
        if not 0 < self.temperature < float("inf") or self.rows < 1 or self.length < 0:
            raise RecipeError(
                f"recipe 'mabel', option temperature={self.temperature}, rows={self.rows} or "
                f"length={self.length}; expected above 0, 1 or more, and 0 or more"
            )

    def require(self, model: LanguageModel) -> None:
        """Reject a model that is not masked, and a missing file."""
        super().require(model)
        if not self.pairs:
            raise RecipeError(f"recipe 'mabel' needs {self.needs}; expected the option pairs=FILE")
        if model.max_positions is not None and self.length > model.max_positions:
            raise RecipeError(
                f"recipe 'mabel', option length={self.length}; {model.name} takes at most "
                f"{model.max_positions} positions"
            )

    def identity(self) -> dict[str, Any]:
        """Return a digest of the pairs; see :meth:`Recipe.identity`."""
        return {"pairs of mabel": digest_of(self.pairs)}

    def sentences(self) -> Sequence[Sequence[str]]:
        """Return the four columns; see :meth:`Recipe.sentences`."""
        return list(zip(*read_pairs(self.pairs), strict=True))

    def prepare(self, model: LanguageModel) -> Callable[[], None]:
        """Add the two layers to the model while it trains; see :meth:`Recipe.prepare`."""
        config: Any = model.body.config
        weight, width = model.head_weight, config.hidden_size
        layers = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        model.model.add_module(HEAD, layers.to(weight.device, weight.dtype))
        return lambda: delattr(model.model, HEAD)

    def passes(self, block: int) -> Passes:
        """Count four sentences a pair, as long as they may be, and once more masked; see
        :meth:`Recipe.passes`.
        """
        tokens = 4 * self.rows * (self.length or block)
        if not self.mlm:
            return Passes(tokens)
        return Passes(2 * tokens, predicted=0.15 / 2)

    def own_loss(self, model: LanguageModel, corpus: Corpus, seed: int) -> MabelLoss:
        """Return the three terms; see :meth:`Recipe.own_loss`."""
        if any(not p.requires_grad for p in model.model.parameters()):
            raise RecipeError(
                "recipe 'mabel' with adapters, which would be put on its own two layers too; "
                "expected all weights to be trained"
            )
        return MabelLoss(self, model, seed)


class MabelLoss:
    """Compute the three terms, of a prepared model: with the two layers, which start here."""

    def __init__(self, recipe: Mabel, model: LanguageModel, seed: int) -> None:
        """Read the pairs and start the layers."""
        self.recipe, self.model = recipe, model
        self.cross_entropy_weight = recipe.text
        length = block_size_of(model, recipe.length or None)
        pairs: Any = EntailmentPairs(read_pairs(recipe.pairs), model, length)
        self.clean = TrainingBatches(pairs, model, "mlm", recipe.rows, seed=seed, mask_rate=0.0)
        self.masked = TrainingBatches(pairs, model, "mlm", recipe.rows, seed=seed)
        self.layers = model.model.get_submodule(HEAD)
        generator = torch.Generator().manual_seed(seed)
        std = getattr(model.model.config, "initializer_range", 0.02)
        with torch.no_grad():
            for layer in (self.layers[0], self.layers[2]):
                shape = layer.weight.shape
                drawn = torch.randn(shape, generator=generator, dtype=torch.float32) * std
                layer.weight.copy_(drawn)
                layer.bias.zero_()

    def losses(self, step: int) -> Mapping[str, tuple[Tensor, float]]:
        """Return the terms of a step; see ``OwnLoss``."""
        batch = self.clean(step)
        p, h, p_swapped, h_swapped = self.vectors(batch.input_ids, batch.attention_mask)
        tau = self.recipe.temperature
        both = contrastive_loss(torch.cat([p, p_swapped]), torch.cat([h, h_swapped]), tau)
        found = {"contrastive": (both, 1.0)}
        if self.recipe.alignment:
            aligned = alignment_loss(p, h, p_swapped, h_swapped, tau)
            found["alignment"] = (aligned, self.recipe.alignment)
        if self.recipe.mlm:
            found["mlm"] = (self.nll(step), self.recipe.mlm)
        return found

    def state(self) -> Mapping[str, Tensor]:
        """Return nothing: the layers are parameters of the model while it trains."""
        return {}

    def vectors(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the vectors of p, h, p' and h' [n, H] each; four rows are a pair."""
        device = self.model.device
        hidden = self.model.last_hidden_state(ids.to(device), mask.to(device))
        p, h, p_swapped, h_swapped = (
            self.layers(hidden[:, 0]).view(-1, 4, hidden.shape[-1]).unbind(1)
        )
        return p, h, p_swapped, h_swapped

    def nll(self, step: int) -> Tensor:
        """Return the mean negative log-likelihood of the masked tokens of all four sentences."""
        batch, device = self.masked(step), self.model.device
        features = self.model.features(batch.input_ids.to(device), batch.attention_mask.to(device))
        kept = batch.labels != IGNORE
        x, weight, bias = self.model.scaled(features[kept.to(device)])
        if not len(x):  # a few short sentences, and nothing drawn
            return features.sum() * 0
        y = batch.labels[kept].to(device)
        return linear_nll_lse(x, weight, y, bias, softcap=self.model.softcap)[0].mean()


def contrastive_loss(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of each a [n, H] among all b [n, H], by cosine."""
    scores = normalize(a, dim=1) @ normalize(b, dim=1).T / temperature
    return cross_entropy(scores, torch.arange(len(a), device=a.device))


def alignment_loss(
    p: Tensor, h: Tensor, p_swapped: Tensor, h_swapped: Tensor, temperature: float
) -> Tensor:
    """Return the mean over rows [n, H] of the summed squared difference of cosines over tau."""
    one = normalize(p, dim=1) @ normalize(h, dim=1).T
    other = normalize(p_swapped, dim=1) @ normalize(h_swapped, dim=1).T
    return ((one - other) / temperature).square().sum(1).mean()
