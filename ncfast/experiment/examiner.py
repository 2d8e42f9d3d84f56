"""What every model is asked: benchmarks, perplexity of held-out text, collapse, places of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..fairness.answers import items_digest, weights_digest
from ..fairness.benchmarks import make
from ..fairness.data import DataFolder
from ..fairness.engine import ModelScorer
from ..fairness.journal import Journal
from ..finetune import FinetuneSettings
from ..finetune.evaluate import perplexity_of_run
from ..finetune.texts import batches_kept_back, read_as_given
from ..language import LanguageModel
from ..measure import measure
from ..reporting import strict
from .controls import Words
from .endpoints import measured
from .errors import ExperimentError
from .protocol import Endpoint, Protocol
from .word_map import word_map

__all__ = ["Examiner"]


class Examiner:
    """Ask models what a protocol asks, the same of all of them."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self._items: dict[tuple[str, bool], list[Any]] = {}
        self._digests: dict[tuple[str, bool], str] = {}
        self._data: dict[str, DataFolder] = {}

    def items(self, benchmark: str, late: bool = False) -> list[Any]:
        """Return a benchmark's items that endpoints are of, the late ones or the others.

        They are read once. A late endpoint that is added changes no other's.
        """
        key = benchmark, late
        if key not in self._items:
            spec = self.protocol.evaluation.data[benchmark]
            if spec not in self._data:
                self._data[spec] = DataFolder(spec, progress=False)
            asked = make(benchmark)
            items = asked.read(self._data[spec], self.protocol.evaluation.attribute)
            subsets = {
                subset
                for e in self.protocol.endpoints
                if (e.benchmark, bool(e.late)) == key
                for subset in e.subsets
            }
            found = asked.only(items, subsets)
            if not found:  # said here, and not after hours of training
                raise ExperimentError(
                    f"no item of {benchmark} is of {', '.join(sorted(subsets))}; expected subsets "
                    "that its files have"
                )
            self._items[key] = found
            self._digests[key] = items_digest(found)[:16]
        return self._items[key]

    def digests(self, late: bool = False) -> dict[str, str]:
        """Return a digest of the items of every benchmark, or of those evaluated late."""
        asked = dict.fromkeys(e.benchmark for e in self.protocol.endpoints if bool(e.late) == late)
        asked.pop("perplexity", None)
        for benchmark in asked:
            self.items(benchmark, late)
        return {name: self._digests[name, late] for name in sorted(asked)}

    def score(self, model: LanguageModel, endpoint: Endpoint) -> dict[str, Any]:
        """Return one endpoint of a benchmark, as a cell keeps it."""
        return self._scores(model, [endpoint])[endpoint.name]

    def _scores(self, model: LanguageModel, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
        found = {}
        for benchmark, late in dict.fromkeys((e.benchmark, bool(e.late)) for e in endpoints):
            scorer = ModelScorer(model, Journal(None))
            records = make(benchmark).measure(self.items(benchmark, late), scorer)
            for endpoint in endpoints:
                if endpoint.benchmark == benchmark:
                    found[endpoint.name] = measured(
                        endpoint, records, self.protocol.evaluation.resamples
                    )
        return found

    def examine(
        self,
        model: LanguageModel,
        training: Mapping[str, Any],
        words: Words,
        settings: FinetuneSettings,
        texts: Sequence[str],
    ) -> dict[str, Any]:
        """Return endpoints, collapse and word map of a model, in strict JSON values.

        ``training`` is what it said, ``perplexity`` and ``held_out`` where the model was trained;
        ``settings`` and ``texts``, that its arm is trained on, say which text is held out where
        not.
        """
        protocol = self.protocol
        model.model.eval()
        now = [e for e in protocol.endpoints if not e.late and e.benchmark != "perplexity"]
        found = self._scores(model, now)
        for endpoint in protocol.endpoints:
            if endpoint.benchmark == "perplexity":
                value, text = training.get("perplexity"), training.get("held_out")
                if value is None:  # not trained
                    value, text = held_out_perplexity(model, settings, texts)
                found[endpoint.name] = {"value": value, "unbiased": None, "items": text}
        result = measure(
            model,
            list(protocol.texts),
            words=tuple(words.values()),
            controls="",
            max_tokens=protocol.evaluation.nc_tokens,
            text_column=protocol.text_column,
            bootstrap=2,
            progress=False,
            seed=0,
        )
        sets, stats = result.report["sets"], result.stats
        places = word_map(model, stats.counts, stats.means, words[protocol.evaluation.words])
        return strict(
            {
                "weights": weights_digest(model),
                "endpoints": found,
                "nc": {name: entry["metrics"] for name, entry in sets.items()},
                "map": places,
            }
        )


def held_out_perplexity(
    model: LanguageModel, settings: FinetuneSettings, texts: Sequence[str]
) -> tuple[float, str]:
    """Return the perplexity of the text that training with these settings keeps back, and a digest.

    It is read as far, and in the precision, as a model trained with them reads it.

    The digest is of text and masks, and that of a model trained with them is equal.
    """
    _, batches = batches_kept_back(read_as_given(texts, model, settings), model, settings)
    if batches is None:
        raise ExperimentError(
            "perplexity is asked for, and no text is kept back; expected held_out above 0, or "
            "validation"
        )
    return perplexity_of_run(model, batches, settings), batches.fingerprint
