"""The Lightning callback logs what the statistics say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

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
    callback = NeuralCollapseLogger(metric, lambda module, batch: batch)
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.fit(module, loader, loader)
    stats = ncfast.ClassStatistics(3, 4, scatter=False)
    stats.update(x, y)
    wanted = ncfast.neural_collapse(stats, head_weight=module.head.weight.detach())
    for key in ("unc3_std", "nc3_mean"):
        assert float(trainer.callback_metrics[f"nc/{key}"]) == pytest.approx(wanted[key], rel=1e-4)


def quiet_trainer(tmp_path, **settings):
    return lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


class Half(Linear):
    """Logs a metric that it holds, of features in 16 bits."""

    def __init__(self):
        from ncfast.integrations.torchmetrics import NeuralCollapse

        super().__init__()
        self.held = NeuralCollapse(6, 4, keys="cdnv_mean")

    def validation_step(self, batch, index):
        self.held.update(*batch)
        self.log("held", self.held, on_step=False, on_epoch=True)


def test_features_in_16_bits_are_known_as_coarsely_as_they_are(tmp_path):
    """Of two classes on one point it is rounding what keeps their means apart."""
    from ncfast.integrations.lightning import NeuralCollapseLogger
    from ncfast.integrations.torchmetrics import NeuralCollapse

    torch.manual_seed(0)
    points, y = torch.randn(6, 4), torch.arange(24) % 6
    points[1] = points[0]
    x = (points[y] + 1e-3 * torch.randn(24, 4)).bfloat16()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    metric = NeuralCollapse(6, 4, keys=["cdnv_mean", "rank_between"], scatter=True)
    callback = NeuralCollapseLogger(metric, lambda module, batch: batch)
    module = Half()
    trainer = quiet_trainer(tmp_path, callbacks=[callback], precision="bf16-true")
    trainer.validate(module, loader, verbose=False)
    stats = ncfast.ClassStatistics(6, 4)
    stats.update(x, y)
    wanted = ncfast.neural_collapse(stats)
    assert wanted["pairs_left_out"] == 1
    logged = trainer.callback_metrics
    for key in ("nc/cdnv_mean", "nc/rank_between"):
        assert float(logged[key]) == pytest.approx(wanted[key.removeprefix("nc/")], rel=1e-4)
    assert float(logged["held"]) == pytest.approx(wanted["cdnv_mean"], rel=1e-4)


def test_it_logs_one_key_by_its_name():
    from types import SimpleNamespace

    from ncfast.integrations.lightning import NeuralCollapseLogger
    from ncfast.integrations.torchmetrics import NeuralCollapse

    logged = {}
    module = SimpleNamespace(device=torch.device("cpu"), log_dict=logged.update)
    callback = NeuralCollapseLogger(NeuralCollapse(3, 4, keys="tokens"), lambda _, batch: batch)
    callback.on_validation_epoch_start(None, module)
    batch = (torch.randn(30, 4), torch.arange(30) % 3)
    callback.on_validation_batch_end(None, module, None, batch)
    callback.on_validation_epoch_end(None, module)
    assert logged == {"nc/tokens": 30}


def test_the_example(tmp_path):
    pytest.importorskip("torchmetrics")
    path = Path(__file__).parents[2] / "examples" / "lightning_torchmetrics.py"
    spec = importlib.util.spec_from_file_location("example", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    logged = example.main(tmp_path, epochs=3)
    assert set(logged) == {"train_unc3", "nc/nc1_quotient", "nc/nc3_mean", "nc/unc3_std"}
    assert logged["nc/nc3_mean"] > 0.5
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    names = set(torch.load(checkpoint, weights_only=False)["state_dict"])
    assert not any("_nc" in name for name in names)


class Logged(Linear):
    """Logs what a called metric returns: one value, and several."""

    def __init__(self):
        from ncfast.integrations.torchmetrics import NeuralCollapse

        super().__init__()
        self.one = NeuralCollapse(3, 4, keys="unc3_std", head=self.head.weight)
        self.nc = NeuralCollapse(3, 4, keys=["unc3_std", "nc3_mean"], head=self.head.weight)
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(batch)
        found = self.nc(*batch)
        self.log("one", self.one(*batch))
        self.log_dict({f"nc/{key}": value for key, value in found.items()})
        return super().training_step(batch, index)

    def on_train_epoch_end(self):
        self.log("epoch", self.one.compute())
        self.one.reset()


def test_logging_a_called_metric(tmp_path):
    x, y = torch.randn(24, 4), torch.arange(24) % 3
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    module = Logged()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader)
    for name in ("one", "nc/unc3_std", "nc/nc3_mean", "epoch"):
        assert torch.isfinite(trainer.callback_metrics[name])
    assert module.nc.update_count == 6
