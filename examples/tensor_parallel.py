"""Train with (U)NC3 where ranks split the vocabulary and have the same tokens.

    torchrun --nproc-per-node 2 tensor_parallel.py MODEL TEXT

MODEL is a causal one, a hub name or a folder; TEXT is a file, a folder or demo:text.
"""

import os
import sys

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module
from transformers import AutoModelForCausalLM, AutoTokenizer

from ncfast.language import Corpus, WordSet
from ncfast.losses import DualityRegularizer, linear_cross_entropy, next_token_labels

device = "cuda" if torch.cuda.is_available() else "cpu"
mesh = init_device_mesh(device, (int(os.environ["WORLD_SIZE"]),))
torch.manual_seed(0)  # the same on every rank: what they have in common has to stay the same

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).to(device).train()
embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
tied = head.weight is embedding.weight
parallelize_module(embedding, mesh, RowwiseParallel(input_layouts=Replicate()))
own = embedding.weight if tied else distribute_tensor(head.weight.data, mesh, [Shard(0)])
head.weight = own if tied else nn.Parameter(own)
# The layers between stay whole here; parallelize_module, or transformers' tp_plan, splits them too.

words = WordSet.load("gender").to_classes(tokenizer).ids
term = DualityRegularizer(*head.weight.shape, words, weight=0.1).to(device)
# PyTorch's foreach kernels do not take plain tensors and DTensors together.
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
corpus = Corpus.from_spec([sys.argv[2]], tokenizer, block_size=32, progress=False)
for _, batch in zip(range(10), corpus.batches(8), strict=False):
    ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
    y = next_token_labels(ids, mask)
    x = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    loss = linear_cross_entropy(x, head.weight, y) + term(x, y, head.weight)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
if distributed.get_rank() == 0:
    print(f"loss {float(loss.detach()):.4f}, {len(head.weight.to_local())} rows on rank 0")
distributed.destroy_process_group()
