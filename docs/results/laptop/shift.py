"""Add one vector to all rows of each model's head: predictions stay, (U)NC3 does not.

python docs/results/laptop/shift.py laptop/cells/bert-tiny/none/seed-*/model
"""

import sys

import torch
from torch.nn.functional import normalize

from ncfast.experiment.word_map import places
from ncfast.language import LanguageModel, WordSet
from ncfast.measure import measure

LENGTHS = (0.0, 1.0, 3.0)  # of the vector, in mean norms of a row


def spreads(folder: str, seed: int) -> list[float]:
    """Return (U)NC3 of gender words under vectors of each length, and the largest change."""
    model = LanguageModel.load(folder, progress=False)
    found = measure(
        model, ["demo:text"], controls="", max_tokens=30000, bootstrap=0, progress=False
    )
    classes = WordSet.load("gender").to_classes(model.tokenizer)
    ids = classes.ids[found.stats.counts[classes.ids] > 0]
    rows, means = model.head_weight.detach().double(), found.stats.means[ids].double()
    drawn = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(seed))
    vector = normalize(drawn.double(), dim=0) * rows.norm(dim=1).mean()
    groups = [torch.isin(ids, group) for group in classes.groups.values()]
    values = [float(places(rows[ids] + a * vector, means, *groups)[1].std()) for a in LENGTHS]
    before, after = ((means @ (rows + a * vector).T).log_softmax(1) for a in (0, LENGTHS[-1]))
    return [*values, float((before - after).abs().max())]


if __name__ == "__main__":
    torch.set_num_threads(1)
    every = [spreads(folder, seed) for seed, folder in enumerate(sys.argv[1:])]
    for row in every:
        print(*(f"{value:.4g}" for value in row))
    print("mean", *(f"{sum(column) / len(every):.4g}" for column in zip(*every, strict=True)))
