"""Train with (U)NC3 under FSDP2, where each rank has a part of everything and tokens of its own.

    torchrun --nproc-per-node 2 fsdp2.py MODEL TEXT

MODEL is a causal one, a hub name or a folder; TEXT is a file, a folder or demo:text.
"""

import os
import sys

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer

from ncfast.language import Corpus, WordSet
from ncfast.losses import DualityRegularizer, linear_cross_entropy, next_token_labels

device = "cuda" if torch.cuda.is_available() else "cpu"
ranks = int(os.environ["WORLD_SIZE"])
mesh = init_device_mesh(device, (ranks,))

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).to(device).train()
embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
tied = head.weight is embedding.weight
layers = next(m for m in model.base_model.children() if isinstance(m, torch.nn.ModuleList))
for module in (*layers, embedding, model.base_model, *([] if tied else [head])):
    fully_shard(module, mesh=mesh)
if tied:
    head.weight = embedding.weight
# The head is never called: its rows stay where they are, and the tokens travel to them.

words = WordSet.load("gender").to_classes(tokenizer).ids
term = DualityRegularizer(*head.weight.shape, words, weight=0.1).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
corpus = Corpus.from_spec([sys.argv[2]], tokenizer, block_size=32, progress=False)
for _, batch in zip(range(10), corpus.batches(8), strict=False):
    rows = slice(distributed.get_rank(), None, ranks)
    ids, mask = batch.input_ids[rows].to(device), batch.attention_mask[rows].to(device)
    y = next_token_labels(ids, mask)
    tokens = (y >= 0).sum()
    distributed.all_reduce(tokens)  # of all ranks, over which gradients are averaged
    x = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    cross_entropy = linear_cross_entropy(x, head.weight, y, num_tokens=tokens / ranks)
    loss = cross_entropy + term(x, y, head.weight)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
loss = loss.detach()
distributed.all_reduce(loss)
if distributed.get_rank() == 0:
    print(f"loss {float(loss) / ranks:.4f}, {len(head.weight.to_local())} rows on rank 0")
distributed.destroy_process_group()
