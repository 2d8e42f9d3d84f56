"""The Lightning callback logs what the statistics say."""

from __future__ import annotations

import pytest
import torch

import ncfast

lightning = pytest.importorskip("lightning.pytorch")


class Linear(lightning.LightningModule):
    """A linear classifier that leaves its inputs as features."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 3)

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.head(batch[0]), batch[1])

    def validation_step(self, batch, index):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_it_logs_the_validation_epoch(tmp_path):
    from ncfast.integrations.lightning import NeuralCollapseLogger
    from ncfast.integrations.torchmetrics import NeuralCollapse

    x, y = torch.randn(30, 4), torch.arange(30) % 3
    module = Linear()
    metric = NeuralCollapse(3, 4).set_head(lambda: module.head.weight.detach())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[NeuralCollapseLogger(metric, lambda module, batch: batch)],
    )
    trainer.fit(module, loader, loader)
    stats = ncfast.ClassStatistics(3, 4, scatter=False)
    stats.update(x, y)
    wanted = ncfast.neural_collapse(stats, head_weight=module.head.weight.detach())
    for key in ("unc3_std", "nc3_mean"):
        assert float(trainer.callback_metrics[f"nc/{key}"]) == pytest.approx(wanted[key], rel=1e-4)
