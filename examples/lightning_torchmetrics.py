"""Lightning and torchmetrics: train a classifier without logits, log neural collapse every epoch."""

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection

from ncfast.integrations.torchmetrics import NeuralCollapse
from ncfast.losses import NC3Regularizer, linear_cross_entropy

V, D = 10, 16


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, D))
        self.head = torch.nn.Linear(D, V)
        self.nc3 = NC3Regularizer(V, D, weight=0.1)
        # The head is referred to: checkpoints carry it once, as the model's.
        self.batch_nc = NeuralCollapse(V, D, keys="unc3_std", head=self.head.weight)
        nc = NeuralCollapse(V, D, keys=["nc1_quotient", "nc3_mean", "unc3_std"], head=self.head.weight)
        self.epoch_nc = MetricCollection([nc], prefix="nc/")

    def training_step(self, batch, index):
        x, y = self.body(batch[0]), batch[1]
        loss = linear_cross_entropy(x, self.head.weight, y, linear_bias=self.head.bias)
        self.log("train_unc3", self.batch_nc(x, y))
        return loss + self.nc3(x, y, self.head.weight)

    def validation_step(self, batch, index):
        self.epoch_nc.update(self.body(batch[0]), batch[1])

    def on_validation_epoch_end(self):
        self.log_dict(self.epoch_nc.compute())
        self.epoch_nc.reset()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2)


def main(folder=None, epochs=5):
    lightning.seed_everything(0)
    centers, y = torch.randn(V, 8), torch.arange(400) % V
    loader = DataLoader(TensorDataset(centers[y] + 0.3 * torch.randn(400, 8), y), batch_size=50)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(), loader, loader)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:20} {value:.4f}")
