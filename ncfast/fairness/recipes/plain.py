"""The plain recipe: the text as it is and the model's own objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .recipe import Recipe


@dataclass(frozen=True)
class Plain(Recipe):
    r"""Fine-tune on the text as it is: ``L = L_LM``, to which regularisers may be added.

    ``L_LM`` is the mean negative log-likelihood of the masked tokens (BERT, Devlin et al. 2019,
    section 3.1) or of the next tokens. With ``--nc3`` it is the row "plain MLM + (U)NC3" of
    *Collapsed Language Models Promote Fairness* (arXiv 2410.04472).

    >>> Plain().trained, Plain().kinds
    (True, ('masked', 'causal'))
    """

    name: ClassVar[str] = "plain"
