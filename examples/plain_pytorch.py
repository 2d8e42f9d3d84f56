"""Add (U)NC3 to a training loop of one's own, of 30 steps.

    python plain_pytorch.py MODEL TEXT

MODEL is a causal one, a hub name, a folder or demo:smollm2; TEXT is a file, a folder or demo:text.
"""

import sys

import torch

from ncfast.language import Corpus, LanguageModel, WordSet
from ncfast.losses import DualityRegularizer, linear_cross_entropy, next_token_labels

language = LanguageModel.load(sys.argv[1], progress=False)
corpus = Corpus.from_spec([sys.argv[2]], language.tokenizer, block_size=64, progress=False)
words = WordSet.load("gender").to_classes(language.tokenizer).ids
term = DualityRegularizer(language.vocab_size, language.hidden_size, words, weight=0.1)
optimizer = torch.optim.AdamW(language.model.parameters(), lr=1e-3)
language.model.train()
for _, batch in zip(range(30), corpus.batches(8), strict=False):
    y = next_token_labels(batch.input_ids, batch.attention_mask)
    x = language.features(batch.input_ids, batch.attention_mask)
    loss = linear_cross_entropy(x, language.head_weight, y, linear_bias=language.head_bias)
    (loss + term(x, y, language.head_weight)).backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"loss {loss:.4f}", {name: round(float(value), 4) for name, value in term.last.items()})
