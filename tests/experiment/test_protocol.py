"""A protocol that cannot be run, or would mislead, is one sentence before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ncfast.cli import main
from ncfast.experiment import ExperimentError, costs, load_protocol, run_grid
from ncfast.experiment.costs import cell_hours, memory, training_flops
from ncfast.experiment.protocol import with_data
from ncfast.experiment.steps import render_steps

WRONG = [
    ("seeds = [0, 1]", "seeds = [0, 0]", "at least 2 different seeds"),
    ("[[models]]\n", "[[models]]\nseeds = [0]\n", "has the seeds .0.; expected 2 or more"),
    ("seeds = [0, 1]", f"seeds = {list(range(21))}", "at most 20 for its exact tests"),
    ("seeds = [0, 1]", "sedes = [0, 1]", "the protocol has sedes; expected only"),
    ("schema =", "scheme =", "schema is not 'ncfast-experiment/1'"),
    ("steps = 3", "stpes = 3", "training has stpes"),
    ('other = "random"', 'other = "rare"', "expected 'random' or 'matched'"),
    ('nc3 = 3.0, means = "ema" }\n\n[[arms]]', "nc4 = 3.0 }\n\n[[arms]]", "'ours' has nc4"),
    ('of = "none"', 'of = "nothing"', "'turned' is of 'nothing'"),
    ('against = "none"\nprimary', 'against = "nobody"\nprimary', r"names \['nobody'\]"),
    ('benchmark = "seat"', 'benchmark = "bbq"', "'seat' is of 'bbq', which has no data"),
    ('endpoint = "perplexity"\n', 'endpoint = "loss"\n', "a margin of 'loss'"),
    ('name = "other"', 'name = "ours"', "of different names"),
    ('name = "other"', 'name = "a/b"', "expected no slash"),
    ('"none"', '"base"', "an arm is called 'base', as the checkpoint"),
    ('other = "random"', 'gender = "random"', "controls has gender, the name of what"),
    ('other = "random"', 'vocabulary = "random"', "controls has vocabulary, the name of what"),
    (
        'benchmark = "perplexity"',
        'benchmark = "perplexity"\nlate = ["none"]',
        "'perplexity' is late and of perplexity",
    ),
    ("resamples = 50", "resamples = 1", "evaluation has resamples = 1; expected at least 2"),
    ("resamples = 50", "resamples = 50.5", "resamples = 50.5; expected a whole number"),
    ("nc_tokens = 2000", "nc_tokens = 0", "evaluation has nc_tokens = 0; expected at least 1"),
    ('name = "other"', 'name = "other"\ntraining = { lr = 1.0 }', None),
    ('name = "ours"', 'name = "ours"\ntraining = { lr = 1.0 }', "seeds do not pair them"),
    (
        "primary = true\n\n[[contrasts]]",
        "primary = true\npositive = true\n\n[[contrasts]]",
        "primary and a positive control",
    ),
    ("seeds = [0, 1]", 'seeds = "01"', "seeds = '01'; expected a list, each a whole number"),
    ("seeds = [0, 1]", "seeds = [0, true]", "expected a list, each a whole number"),
    ("primary = true", 'primary = "false"', "primary = 'false'; expected true or false"),
    ("steps = 3", "steps = 3.0", "training has steps = 3.0; expected a whole number"),
    ("lr = 1e-3", 'lr = "1e-3"', "lr = '1e-3'; expected a number"),
    ("nc3 = 3.0", 'nc3 = 3.0, spread = "none"', "the arm 'ours': spread is 'none' and alignment 0"),
    ("nc3 = 3.0", 'nc3 = 3.0, spread = "none", alignment = 1.0', None),
    ("nc3 = 3.0", 'nc3 = 3.0, preset = "offical"', "the arm 'ours': preset is 'offical'"),
    (
        'name = "other"',
        'name = "other"\nrecipe = "dropout"\noptions = { hiden = 0.5 }',
        "the arm 'other': recipe 'dropout', option 'hiden'",
    ),
    (
        'recipe = "random-rotation"\nof = "none"\noptions = { like = "ours" }',
        'recipe = "rotate"\nof = "none"\noptions = { to = "mean" }',
        "the arm 'turned': recipe 'rotate', option to='mean'",
    ),
    ('like = "ours"', 'like = "hours"', "the arm 'turned' is like 'hours'; expected a trained arm"),
    ('like = "ours"', 'like = "turned"', "is like 'turned'; expected a trained arm"),
    (
        'means = "ema" }\n\n[[arms]]\nname = "other"',
        'means = "ema" }\nstage = 3\n\n[[arms]]\nname = "other"',
        "'turned' of stage 2 is made of 'ours', which is run later, in stage 3",
    ),
    (
        "[[models]]\n",
        '[[models]]\narms = ["none", "turned"]\n',
        "has the arm 'turned', but not the 'ours' that it is made of",
    ),
    ("steps = 3", "steps = 3\naccumulate = 9", "accumulate=9 of 8 blocks"),
    ("nc3 = 3.0", "nc3 = inf", "'ours' has nc3 = inf; expected a number"),
    ("[[contrasts]]", "[contrasts]", "expected \\[\\[contrasts\\]\\]|not TOML"),
    (
        'name = "perplexity"\n',
        'name = "perplexity"\ngood = "none"\n',
        "whose good is 'none'; expected low or high",
    ),
    ("margin = 0.03", "margin = -0.03", "a margin of -0.03 of 'perplexity'; expected above 0"),
    (
        'name = "other"',
        'name = "other"\nrecipe = "mabel"\noptions = { pairs = "a.csv" }\ntexts = ["./a.csv"]',
        "trains on a.csv, its option pairs, and perplexity would be of the same file",
    ),
    (
        'name = "other"',
        'name = "other"\nrecipe = "mabel"\noptions = { pairs = "a.csv" }\n'
        'training = { validation = ["a.csv"] }',
        "perplexity would be of the same file",
    ),
    (
        'name = "other"',
        'name = "other"\nrecipe = "mabel"\noptions = { pairs = "a.csv" }\ntexts = ["a.csv"]\n'
        'training = { validation = ["b.csv"] }',
        None,
    ),
    ('spec = "', 'prepare = ["rm", "-r"]\nspec = "', "either a spec or what prepares it"),
    ("seeds = [0, 1]", "seeds = [0, 1]\nthreads = -1", "threads is -1; expected 1 to 1024"),
    ("seeds = [0, 1]", "seeds = [0, 1]\nthreads = 1025", "threads is 1025; expected 1 to 1024"),
    ('name = "other"', 'name = "other"\nseeds = [1]', None),
    ('name = "other"', 'name = "other"\nseeds = [1, 2]', "'other' has the seeds .1, 2.; expected"),
    ('name = "other"', 'name = "other"\nseeds = [1, 1]', "'other' has the seeds .1, 1.; expected"),
    ('name = "ours"', 'name = "ours"\nseeds = [0]', "'ours' of a primary contrast has the seeds"),
    ('name = "none"', 'name = "none"\nseeds = [0]', "'none' of a primary contrast has the seeds"),
    (
        'stage = 2\n\n[[arms]]\nname = "turned"\nrecipe = "random-rotation"\nof = "none"',
        'stage = 2\nseeds = [0]\n\n[[arms]]\nname = "turned"\nrecipe = "random-rotation"\n'
        'of = "other"',
        "'turned' is made of 'other' with seeds that 'other' does not have",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_what_is_wrong_is_said(tiny_protocol, tmp_path, old, new, message):
    path = tiny_protocol(tmp_path, **{old: new})
    if message is None:
        load_protocol(path)
        return
    with pytest.raises(ExperimentError, match=message):
        load_protocol(path)


def test_only_fine_tuning_prepares(tiny_protocol, tmp_path):
    text = tiny_protocol(tmp_path).read_text(encoding="utf-8")
    start = text.index("spec = ")
    end = text.index("\n", start)
    path = tmp_path / "other.toml"
    path.write_text(text[:start] + 'prepare = ["doctor"]' + text[end:], encoding="utf-8")
    with pytest.raises(ExperimentError, match="is prepared by 'doctor'; expected 'finetune'"):
        load_protocol(path)


def test_a_recipe_that_does_not_exist_is_refused_before_the_first_step(tiny_protocol, tmp_path):
    path = tiny_protocol(tmp_path, **{'name = "other"': 'name = "other"\nrecipe = "wishful"'})
    with pytest.raises(ExperimentError, match="the arm 'other' asks for the recipe 'wishful'"):
        run_grid(load_protocol(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "NOT THERE: the recipe wishful" in render_steps(load_protocol(path))


def test_other_places_for_data(tiny_protocol, tmp_path):
    protocol = load_protocol(tiny_protocol(tmp_path))
    moved = with_data(protocol, ["seat=elsewhere"])
    assert moved.evaluation.data["seat"] == "elsewhere"
    assert moved.digest == protocol.digest
    for given in ("seat", "seat=", "sat=there"):
        with pytest.raises(ExperimentError, match="expected NAME=DIR"):
            with_data(protocol, [given])


def test_a_dry_run_runs_nothing(tiny_protocol, tmp_path, capsys):
    path = tiny_protocol(tmp_path)
    assert main(["experiment", str(path), "--dry-run", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "ours: 2 runs of plain, 3 steps" in said
    assert "turned: 2 of none, random-rotation, no training" in said
    assert "smallest p 0.5000" in said
    assert "NONE OF THESE CAN BE SIGNIFICANT" in said
    assert "within 3 %" in said
    few = tiny_protocol(tmp_path, **{'name = "other"': 'name = "other"\nseeds = [1]'})
    assert "other: 1 runs of plain" in render_steps(load_protocol(few))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_which_texts_are_not_there(tiny_protocol, tiny_text, tmp_path):
    said = render_steps(load_protocol(tiny_protocol(tmp_path)))
    assert f"   {tiny_text}\n" in said
    assert "NOT FOUND" not in said
    changes = {f'"{tiny_text}"': f'"{tiny_text}", "demo:text", "lost.txt"'}
    said = render_steps(load_protocol(tiny_protocol(tmp_path, **changes)))
    assert "   lost.txt, NOT FOUND here\n" in said
    assert said.count("NOT FOUND") == 1


def test_what_can_be_found_is_told_of_the_fewest_seeds(tiny_protocol, tmp_path):
    changes = {
        "seeds = [0, 1]": "seeds = [0, 1, 2, 3, 4, 5, 6, 7]",
        "[[models]]\n": "[[models]]\nseeds = [0, 1]\n",
    }
    said = render_steps(load_protocol(tiny_protocol(tmp_path, **changes)))
    assert "over 2 seeds, smallest p 0.5000" in said
    assert "NONE OF THESE CAN BE SIGNIFICANT" in said
    extra = '[[models]]\nname = "more"\nspec = "here"\narms = ["none"]\nseeds = [0, 1]\n\n'
    changes["[[models]]\n"] = f"{extra}[[models]]\n"
    said = render_steps(load_protocol(tiny_protocol(tmp_path, **changes)))
    assert "over 8 seeds" in said  # of no contrast


@pytest.mark.parametrize(("given", "said"), [("1", True), ("2", False)])
def test_other_threads_than_the_protocol_s_are_said(tiny_protocol, tmp_path, capsys, given, said):
    path = tiny_protocol(tmp_path, **{"seeds = [0, 1]": "seeds = [0, 1]\nthreads = 2"})
    before = torch.get_num_threads()
    try:
        assert main(["experiment", str(path), "--threads", given, "--dry-run"]) == 0
    finally:
        torch.set_num_threads(before)
    line = f"--threads {given}: the protocol says 2; last digits may differ\n"
    assert capsys.readouterr().err == (line if said else "")


def test_a_report_repeats_the_threads_it_was_run_with(tiny_protocol, tmp_path, monkeypatch):
    changes = {
        "seeds = [0, 1]": "seeds = [0, 1, 2, 3, 4, 5, 6, 7]\nthreads = 7",
        "[[models]]\n": "[[models]]\nseeds = [0, 1]\n",
    }
    path = tiny_protocol(tmp_path, **changes)
    monkeypatch.setattr("ncfast.experiment.run_grid", lambda *given: {})
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    out = tmp_path / "run"
    assert main(["experiment", str(path), "--threads", "3", "--quiet", "--out", str(out)]) == 0
    said = (out / "report.md").read_text(encoding="utf-8")
    assert " --threads 3: the whole grid" in said
    assert "sign-flip test over 2 seeds" in said
    assert "With 2 seeds, none of the 1 tests can be significant" in said


@pytest.mark.parametrize(
    "name",
    [
        *("laptop", "laptop-again", "smollm2", "smollm2-again"),
        pytest.param("paper", marks=pytest.mark.slow),
    ],
)
def test_what_is_shipped_is_listed_whole(name, capsys):
    path = Path(__file__).parents[2] / "experiments" / f"{name}.toml"
    protocol = load_protocol(path)
    assert main(["experiment", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "CAN BE SIGNIFICANT" not in said  # no tests, or enough seeds for them
    assert "NOT THERE" not in said
    for arm in protocol.arms:
        assert f"{arm.name}: " in said
    for benchmark in protocol.evaluation.data:
        assert f"{benchmark}: " in said
    if name == "paper":
        assert said.count(" GiB, ") + said.count(" (DOES NOT FIT in 24 GiB), ") == 26
        assert said.count(" of it the recipe's own passes") == 12  # ase, adept, mabel, twice each
        assert (
            said.count("evaluated last: 56 models") == said.count("   base: 1, no training, ") == 2
        )
        assert "size is not known" not in said


SHAPE = (
    "shape = { hidden_size = 64, num_hidden_layers = 2, num_attention_heads = 2, "
    "intermediate_size = 128 }\n"
)


def test_hours_are_of_text_own_passes_and_evaluation(tiny_protocol, tmp_path, monkeypatch):
    changes = {'[[arms]]\nname = "none"': f'{SHAPE}\n[[arms]]\nname = "none"'}
    changes['name = "other"'] = 'name = "other"\nrecipe = "adept"\noptions = { renew = 2 }'
    protocol = load_protocol(tiny_protocol(tmp_path, **changes))
    model = protocol.models[0]
    monkeypatch.setattr(costs, "TOKENS", {"bec-pro": 1e6})
    sizes = {**model.shape, "block_size": 16}

    def hours(tokens: float, rate: float, block: int = 16) -> float:
        flops = training_flops({**sizes, "block_size": block}, tokens, rate)
        return flops / costs.RATE / 3600

    none, other = (cell_hours(protocol, model, protocol.arm(n)) for n in ("none", "other"))
    assert none.text == other.text == pytest.approx(hours(3 * 8 * 16, 0.15))
    # Twice 8 blocks with a gradient, 8 through the model as it was, 256 every second step.
    own = hours(3 * 2 * 8 * 16, 0.0) + hours(3 * (8 + 128) * 16, 0.0) / 3
    assert (none.own, other.own) == (0.0, pytest.approx(own))
    asked = hours(1e6 + 2000, 0.15, 128) / 3 + 2 * hours(0.2 * 3 * 8 * 16, 0.15) / 3
    assert none.evaluation == pytest.approx(asked)
    assert none.all == none.text + none.evaluation
    assert none.unknown == ("seat",)
    turned = cell_hours(protocol, model, protocol.arm("turned"))
    assert (turned.text, turned.own) == (0.0, 0.0)
    said = render_steps(protocol)
    assert "not in these hours: seat, whose size is not known" in said
    alone, held = (memory(protocol, model, protocol.arm(name)) for name in ("none", "other"))
    assert held - alone > 30522 * 64 * 4  # a copy of the weights, and 16 blocks where 8 are text


def test_what_does_not_fit_is_said(tiny_protocol, tmp_path, monkeypatch):
    changes = {'[[arms]]\nname = "none"': f'{SHAPE}\n[[arms]]\nname = "none"'}
    protocol = load_protocol(tiny_protocol(tmp_path, **changes))
    monkeypatch.setattr("ncfast.experiment.steps.memory", lambda *given: 25 * 2**30)
    assert render_steps(protocol).count("25.0 GiB (DOES NOT FIT in 24 GiB)") == 3


def test_flops_are_six_times_parameters_where_nothing_else_counts():
    # 12 layers of 7.08 M parameters, attention over 128, and 15 % of a head of 24.0 M: by hand.
    layer = 12 * (4 * 768**2 + 2 * 768 * 3072 + 768 * 128)
    head = 0.15 * 768 * (30522 + 768)
    assert training_flops({"block_size": 128}, 10) == pytest.approx(60 * (layer + head))
