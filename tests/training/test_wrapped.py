"""Models inside torch.compile, DDP, FSDP1 and FSDP2: taken out exactly, or one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import distributed

import ncfast
from ncfast.language import LanguageError, LanguageModel
from tests.forked import run_ranks
from tests.training.families import VOCABULARY, batch, build

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """Be the one rank of a gloo group."""
    store = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models

    vocabulary = {f"w{index}": index for index in range(VOCABULARY)}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="w0")), pad_token="w0"
    )


def compiled(model):
    return torch.compile(model, backend="aot_eager")


def compiled_in_place(model):
    model.compile(backend="aot_eager")
    return model


def parallel(model):
    return torch.nn.parallel.DistributedDataParallel(model)


def adapted(model):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))


def flattened(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    device = torch.device("cpu")
    return FullyShardedDataParallel(model, device_id=device, use_orig_params=True)


def flattened_layers(model):
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = flattened(layer)
    return model


def flattened_head(model):
    model.lm_head = flattened(model.lm_head)
    return model


def flattened_body(model):
    model.model = flattened(model.model)
    return model


def sharded(model):
    from torch.distributed.fsdp import fully_shard

    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def sharded_layers(model):
    from torch.distributed.fsdp import fully_shard

    for layer in model.model.layers:
        fully_shard(layer)
    return model


RIGHT = {
    "compile": (compiled,),
    "compile, in place": (compiled_in_place,),
    "DataParallel": (torch.nn.DataParallel,),
    "DDP": (parallel,),
    "DDP of compile": (compiled, parallel),
    "compile of DDP": (parallel, compiled),
    "DDP of peft": (adapted, parallel),
    "FSDP1, layers": (flattened_layers,),
    "FSDP2, layers": (sharded_layers,),
    "compile of FSDP2, layers": (sharded_layers, compiled),
}
REJECTED = {
    "FSDP1": ((flattened,), "the model is wrapped by FullyShardedDataParallel"),
    "compile of FSDP1": ((flattened, compiled), "the model is wrapped by FullyShardedDataParallel"),
    "FSDP1 of peft": ((adapted, flattened), "the model is wrapped by FullyShardedDataParallel"),
    "FSDP1, head": ((flattened_head,), "head or embedding of the model are inside FullyShard"),
    "FSDP1, body": ((flattened_body,), "head or embedding of the model are inside FullyShard"),
    "FSDP2": ((sharded,), "head weight of FSDPLlamaForCausalLM is sharded over ranks"),
    "compile of FSDP2": ((sharded, compiled), "head weight .* is sharded over ranks"),
}


def wrap(wrappers):
    model = build("LlamaForCausalLM", tie_word_embeddings=False)
    for wrapper in wrappers:
        model = wrapper(model)
    return model


SLOW = ("compile of DDP", "compile of FSDP2, layers", "DDP of compile")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in RIGHT]
)
def test_the_model_inside_is_measured_and_trained(name, one_rank, tokenizer):
    model, plain = wrap(RIGHT[name]), build("LlamaForCausalLM", tie_word_embeddings=False)
    inputs, ids = batch(), torch.arange(5, 15)[None]
    language = LanguageModel.from_pretrained_model(model, tokenizer)
    language.model.eval()
    with torch.no_grad():
        logits = language.features(ids) @ language.head_weight.T
        torch.testing.assert_close(logits, plain.eval()(ids).logits, rtol=0, atol=0)
    model.train()
    with ncfast.apply_to(model):
        outputs = model(**inputs)
        outputs.loss.backward()
    assert outputs.logits is None
    expected = plain.train()(**inputs).loss
    expected.backward()
    torch.testing.assert_close(outputs.loss, expected, rtol=2e-6, atol=0)
    if "peft" not in name:
        gradient = language.model.lm_head.weight.grad
        torch.testing.assert_close(gradient, plain.lm_head.weight.grad, rtol=1e-4, atol=1e-7)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", REJECTED)
def test_pieces_of_weights_are_rejected_at_every_way_in(name, one_rank, tokenizer):
    from ncfast.integrations.transformers import NeuralCollapseCallback

    wrappers, message = REJECTED[name]
    model = wrap(wrappers)
    ways = (
        lambda: LanguageModel.from_pretrained_model(model, tokenizer),
        lambda: ncfast.apply_to(model),
        lambda: NeuralCollapseCallback([batch()], tokenizer).measure(model),
    )
    for way in ways:
        with pytest.raises(LanguageError, match=message) as caught:
            way()
        assert "\n" not in str(caught.value)
    torch._dynamo.reset()


class DeepSpeedEngine(torch.nn.Module):
    """What DeepSpeed's engine of this name is to its model: ``module``, and a forward pass."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_a_deepspeed_engine_with_whole_weights_is_taken_off(tokenizer):
    """ZeRO stages 0 to 2 keep every weight whole on each rank."""
    plain = build("LlamaForCausalLM", tie_word_embeddings=False)
    engine, inputs = DeepSpeedEngine(build("LlamaForCausalLM", tie_word_embeddings=False)), batch()
    assert LanguageModel.from_pretrained_model(engine, tokenizer).model is engine.module
    with ncfast.apply_to(engine):
        outputs = engine(**inputs)
    assert outputs.logits is None
    torch.testing.assert_close(outputs.loss, plain(**inputs).loss, rtol=2e-6, atol=0)


@pytest.mark.parametrize("engine", [True, False])
def test_weights_that_deepspeed_has_divided_are_rejected(engine, tokenizer):
    """ZeRO stage 3 leaves an empty tensor and hangs its piece, ``ds_tensor``, on the parameter."""
    model = build("LlamaForCausalLM", tie_word_embeddings=False)
    for parameter in model.parameters():
        parameter.ds_tensor, parameter.data = parameter.data.flatten()[:3], torch.empty(0)
    wrapped = DeepSpeedEngine(model) if engine else model
    for way in (
        lambda: LanguageModel.from_pretrained_model(wrapped, tokenizer),
        lambda: ncfast.apply_to(wrapped),
    ):
        with pytest.raises(LanguageError, match="divided among ranks by DeepSpeed's ZeRO stage 3"):
            way()


def _two_ranks(rank, out, words):
    from tokenizers import Tokenizer, models

    from ncfast.testing import end_rank

    distributed.init_process_group(
        "gloo", init_method=f"file://{out}/store", rank=rank, world_size=2
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), pad_token="w0"
    )
    inputs = {name: value.roll(rank, 0) for name, value in batch().items()}
    found = {}
    for name, wrappers in (("layers", (flattened_layers,)), ("whole", (flattened,))):
        model = wrap(wrappers)
        try:
            language = LanguageModel.from_pretrained_model(model, tokenizer)
            with torch.no_grad():
                ids = inputs["input_ids"]
                logits = language.features(ids) @ language.head_weight.T
            with ncfast.apply_to(model):
                loss = model(**inputs).loss
                loss.backward()
            head = model.lm_head.weight.grad
            found[name] = {"logits": logits, "loss": loss.detach(), "head": head}
        except LanguageError as error:
            found[name] = str(error)
    pieces = sum(p.numel() for p in wrap((flattened_layers,)).model.layers.parameters())
    torch.save(found | {"pieces": pieces}, f"{out}/{rank}.pt")
    end_rank()


@pytest.mark.slow
def test_fsdp1_on_two_ranks(tmp_path):
    """Layers in pieces on two ranks are right; a head in pieces is rejected on both."""
    words = {f"w{index}": index for index in range(VOCABULARY)}
    run_ranks(_two_ranks, (str(tmp_path), words))
    plain = build("LlamaForCausalLM", tie_word_embeddings=False)
    whole = sum(p.numel() for p in plain.model.layers.parameters())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["pieces"] < whole  # or nothing was in pieces
        plain.zero_grad()
        expected = plain(**{name: value.roll(rank, 0) for name, value in batch().items()})
        expected.loss.backward()
        layers = found["layers"]
        torch.testing.assert_close(layers["logits"], expected.logits.detach(), rtol=0, atol=1e-6)
        torch.testing.assert_close(layers["loss"], expected.loss.detach(), rtol=2e-6, atol=0)
        torch.testing.assert_close(layers["head"], plain.lm_head.weight.grad, rtol=1e-4, atol=1e-7)
        assert found["whole"].startswith("the model is wrapped by FullyShardedDataParallel")
        assert "\n" not in found["whole"]
