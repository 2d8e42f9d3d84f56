"""The loop: it learns, it stops and goes on to the same digits, and it refuses other runs."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch

from ncfast import sealed_file
from ncfast.errors import DataError
from ncfast.training import LoopSettings, Training, TrainingInterrupted, checkpoints
from ncfast.training.checkpoints import newest_checkpoint, save_checkpoint
from ncfast.training.log import StepLog, read_log


def training(run, folder=None, steps=6, identity=None, **settings) -> Training:
    defaults = {"metrics_every": 4, "save_every_seconds": 0.0, "progress": False, "lr": 1e-3}
    loop = LoopSettings(steps, **{**defaults, **settings})
    return Training(run.objective, run.optimizer, run.batches, loop, folder, identity or {})


def curve(folder):
    return [
        {k: v for k, v in x.items() if k != "seconds"} for x in read_log(folder / "steps.jsonl")
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fifty_steps_fused_follow_the_transformers_loss(setup_run, precision):
    fused = setup_run("causal", weight=0.0, dropout=False, precision=precision)
    plain = setup_run("causal", weight=0.0, dropout=False)
    losses: list[list[float]] = [[], []]
    for step in range(50):
        batch = fused.batches(step)
        fused.optimizer.zero_grad()
        losses[0].append(fused.objective.backward(batch, step).loss)
        fused.optimizer.step()
        plain.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = plain.model.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask
            ).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), batch.labels.flatten()
        )
        loss.backward()
        plain.optimizer.step()
        losses[1].append(loss.item())
    assert losses[0][-1] < losses[0][0] - 0.1
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision == "fp32" else 5e-3)


def test_the_term_lowers_its_own_metric(setup_run, tmp_path):
    ends = []
    for weight in (0.0, 2.0):
        run = setup_run("causal", weight=1.0)
        run.objective.terms["nc3"].schedule = type(run.objective.terms["nc3"].schedule)(weight)
        training(run, tmp_path / str(weight), steps=60, save_every_seconds=1e9).run()
        values = [
            line["nc/unc3_std"] for line in curve(tmp_path / str(weight)) if "nc/unc3_std" in line
        ]
        ends.append(sum(values[-4:]) / 4)
    assert ends[1] < 0.8 * ends[0]


def test_stopped_anywhere_the_curve_is_the_same(setup_run, tmp_path):
    training(setup_run(), tmp_path / "whole").run()
    for stop in (1, 3, 5):
        folder = tmp_path / f"stopped-{stop}"
        first = training(setup_run(), folder)
        kept_line = first._line

        def line_then_stop(*arguments, kept_line=kept_line, first=first, stop=stop):
            if first.step == stop:
                signal.raise_signal(signal.SIGINT)
            return kept_line(*arguments)

        first._line = line_then_stop
        with pytest.raises(TrainingInterrupted, match=f"after {stop} of 6"):
            first.run()
        second = training(setup_run(), folder)
        assert second.resume()
        assert second.step == stop
        second.run()
        assert curve(folder) == curve(tmp_path / "whole")


def test_a_kill_while_saving_leaves_the_checkpoint_before(setup_run, tmp_path, monkeypatch):
    training(setup_run(), tmp_path / "whole").run()
    run, folder = training(setup_run(), tmp_path / "killed"), tmp_path / "killed"
    from ncfast import durable_file

    calls = {"sync": 0}
    kept = durable_file.sync

    def die(path):
        calls["sync"] += checkpoints.PARTIAL in str(path)
        if calls["sync"] == 10:  # in the middle of the third checkpoint: four syncs each
            raise SystemExit
        kept(path)

    monkeypatch.setattr(durable_file, "sync", die)
    with pytest.raises(SystemExit):
        run.run()
    monkeypatch.setattr(durable_file, "sync", kept)
    assert (folder / checkpoints.PARTIAL).exists()
    assert newest_checkpoint(folder).name == "checkpoint-2"
    again = training(setup_run(), folder)
    again.resume()
    again.run()
    assert curve(folder) == curve(tmp_path / "whole")
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint-5",
        "checkpoint-6",
        "steps.jsonl",
    ]


def test_a_checkpoint_of_another_run_is_refused_by_name(setup_run, tmp_path):
    training(setup_run(), tmp_path, identity={"model": "a", "seed": 1}).run()
    other = training(setup_run(), tmp_path, identity={"model": "b", "seed": 1})
    before = {n: p.clone() for n, p in other.objective.model.model.named_parameters()}
    with pytest.raises(DataError, match="model is a there, b here"):
        other.resume()
    for name, parameter in other.objective.model.model.named_parameters():
        assert torch.equal(parameter, before[name])
    causal = training(setup_run("causal"), tmp_path, identity={"model": "a", "seed": 1})
    with pytest.raises(DataError, match="checkpoint of another model"):
        causal.resume()


def test_a_checkpoint_holds_no_pickle_and_a_broken_one_is_named(setup_run, tmp_path):
    training(setup_run(), tmp_path, steps=1).run()
    found = newest_checkpoint(tmp_path)
    assert sorted(p.name for p in found.iterdir()) == ["state.json", "tensors.safetensors"]
    assert json.loads((found / "state.json").read_text())["step"] == 1
    (found / "tensors.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"damaged .*none before it: remove it to start anew"):
        training(setup_run(), tmp_path, steps=1).resume()


def _without(prefix):
    """Take tensors away and seal the file anew, as somebody's script might."""

    def damage(found):
        header, tensors = sealed_file.load_tensors(found / checkpoints.TENSORS, checkpoints.SCHEMA)
        kept = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
        place = found / checkpoints.TENSORS
        sealed_file.save_tensors(place, kept, {"step": header["step"]}, checkpoints.SCHEMA)

    return damage


def _flip(name, at):
    def damage(found):
        data = bytearray((found / name).read_bytes())
        data[at] ^= 1
        (found / name).write_bytes(data)

    return damage


def _state(**changes):
    def damage(found):
        state = json.loads((found / "state.json").read_text()) | changes
        found.joinpath("state.json").write_text(sealed_file.dump_json(state))

    return damage


DAMAGE = {
    "no optimizer": (_without("optimizer/"), "are of two checkpoints"),
    "a bit of the weights": (_flip("tensors.safetensors", -9), "does not have the checksum"),
    "a bit of the state": (_flip("state.json", -9), r"state\.json is damaged"),
    "another step": (_state(step=5), "is of step 5"),
    "no identity": (_state(identity=None), "has no identity"),
    "a step of no type": (_state(step="6"), "has no step"),
    "an older version": (_state(schema="ncfast-checkpoint/1"), "expected 'ncfast-checkpoint/2'"),
    "deep JSON": (lambda f: (f / "state.json").write_text("[" * 200_000), "nested too deeply"),
    "cut": (lambda f: os.truncate(f / "tensors.safetensors", 4000), r"tensors\.safetensors is dam"),
    "gone": (lambda f: (f / "tensors.safetensors").unlink(), "No such file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(setup_run, tmp_path, name):
    damage, said = DAMAGE[name]
    training(setup_run(), tmp_path).run()
    damage(tmp_path / "checkpoint-6")
    run = training(setup_run(), tmp_path)
    before = [parameter.clone() for parameter in run.objective.model.model.parameters()]
    remove = r"remove it to go on from checkpoint-5"
    with pytest.raises(DataError, match=rf"checkpoint-6 is damaged.*{said}.*{remove}"):
        run.resume()
    for parameter, was in zip(run.objective.model.model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
    if name == "gone":
        shutil.rmtree(tmp_path / "checkpoint-6")
        assert run.resume()
        assert run.step == 5


def test_what_a_checkpoint_lacks_is_named(setup_run, tmp_path):
    run = setup_run("causal")
    place = (run.model.model, run.optimizer, run.objective.terms, {})
    found = save_checkpoint(tmp_path, 1, {}, *place)
    state = json.loads((found / "state.json").read_text())
    _without("term/nc3/class_means.seen")(found)
    header, _ = sealed_file.load_tensors(found / checkpoints.TENSORS, checkpoints.SCHEMA)
    _state(tensors=header["checksum"], step=state["step"])(found)
    with pytest.raises(DataError, match=r"\(term/nc3/class_means\.seen is missing\)"):
        checkpoints.load_checkpoint(found, {}, *place)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "line 2 is no line of a log"),
        ('{"step": "2"}', "line 2 is no line"),
        ("[" * 200_000, "line 2 is no line"),
        ('{"step": 3}', "lacks step 2"),
        ('{"step": 2}', "lacks step 3"),
    ],
)
def test_a_damaged_log_is_named(tmp_path, line, said):
    (tmp_path / "steps.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(DataError, match=rf"steps\.jsonl.*{said}"):
        StepLog(tmp_path / "steps.jsonl", 3)


def test_a_checkpoint_beyond_the_last_step_is_refused(setup_run, tmp_path):
    training(setup_run(), tmp_path).run()
    with pytest.raises(DataError, match="checkpoint-6 is of step 6; expected at most 4"):
        training(setup_run(), tmp_path, steps=4).resume()


@pytest.mark.parametrize("name", ["SGD", "Adafactor", "RMSprop"])
def test_any_optimiser_resumes(setup_run, tmp_path, name):
    from ncfast.training import make_optimizer

    def run():
        made = setup_run("causal", weight=0.0)
        made.optimizer = make_optimizer(made.model.model, name, 1e-3)
        return made

    training(run(), tmp_path / "whole", steps=4).run()
    first = training(run(), tmp_path / "half", steps=4)
    for _ in range(2):
        first.one_step()
    first.save()
    second = training(run(), tmp_path / "half", steps=4)
    second.resume()
    second.run()
    assert curve(tmp_path / "half") == curve(tmp_path / "whole")[2:]


def test_a_loss_that_is_not_finite_names_the_step(setup_run, tmp_path):
    run = setup_run("causal", weight=0.0)
    with torch.no_grad():
        run.model.head_weight[5, 0] = float("nan")
    with pytest.raises((DataError, ValueError), match=r"step 1|linear_cross_entropy"):
        training(run, tmp_path).run()


def test_an_infinite_feature_is_named_and_changes_nothing(setup_run, tmp_path):
    run = setup_run("causal", weight=0.0)
    job = training(run, tmp_path)
    before = {name: p.clone() for name, p in run.model.model.named_parameters()}
    norm = run.model.model.transformer.ln_f

    def overflow(module, args, output):
        return output.masked_fill(torch.arange(output.shape[-1]) == 3, torch.inf)

    norm.register_forward_hook(overflow)
    with pytest.raises(DataError, match=r"input\[\d+, 3\] is inf"):
        job.run()
    for name, parameter in run.model.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_a_full_disk_leaves_the_checkpoint_before(setup_run, tmp_path):
    run = setup_run("causal", weight=0.0)
    place = (1, {}, run.model.model, run.optimizer, {}, {})
    save_checkpoint(tmp_path, *place)
    (tmp_path / ".checkpoint.partial").write_text("in the way")
    with pytest.raises(OSError, match="partial"):
        save_checkpoint(tmp_path, 2, *place[1:])
    assert newest_checkpoint(tmp_path).name == "checkpoint-1"
