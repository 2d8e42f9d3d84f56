"""Lightning and torchmetrics: a classifier without logits, its neural collapse every epoch.

    python lightning_torchmetrics.py

Needs: pip install lightning torchmetrics.
"""

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection

from ncfast.integrations.torchmetrics import NeuralCollapse
from ncfast.losses import NC3Regularizer, linear_cross_entropy

V, D = 10, 16
KEYS = ["nc1_quotient", "nc3_mean", "unc3_std"]


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, D))
        self.head = nn.Linear(D, V)
        self.term = NC3Regularizer(V, D, weight=0.1)
        # The head is referred to: a checkpoint carries it once, as the model's.
        self.batch_nc = NeuralCollapse(V, D, keys="unc3_std", head=self.head.weight)
        epoch_nc = NeuralCollapse(V, D, keys=KEYS, head=self.head.weight)
        self.epoch_nc = MetricCollection([epoch_nc], prefix="nc/")

    def training_step(self, batch, index):
        x, y = self.body(batch[0]), batch[1]
        loss = linear_cross_entropy(x, self.head.weight, y, linear_bias=self.head.bias)
        self.log("train_unc3", self.batch_nc(x, y))
        return loss + self.term(x, y, self.head.weight)

    def validation_step(self, batch, index):
        self.epoch_nc.update(self.body(batch[0]), batch[1])

    def on_validation_epoch_end(self):
        self.log_dict(self.epoch_nc.compute())
        self.epoch_nc.reset()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2)


def main(folder=None, epochs=5):
    """Train on ten clouds of points; return what was logged last."""
    lightning.seed_everything(0, verbose=False)
    centers, y = torch.randn(V, 8), torch.arange(400) % V
    points = centers[y] + 0.3 * torch.randn(400, 8)
    loader = DataLoader(TensorDataset(points, y), batch_size=50)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), loader, loader)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20} {value:.4f}")
