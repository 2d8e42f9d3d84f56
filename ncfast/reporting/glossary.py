"""The former place of what metrics mean, which :mod:`ncfast.catalogue` holds now."""

from ..moved import moved

__getattr__ = moved(
    __name__,
    "ncfast.catalogue",
    {
        "FAMILIES": "FAMILIES",
        "HIGHER": "HIGHER",
        "LOWER": "LOWER",
        "METRICS": "METRICS",
        "Explanation": "Metric",
        "explain_metric": "explain_metric",
        "ordered_keys": "ordered_keys",
    },
)
