"""The former place of the ranges of metrics, which :mod:`ncfast.catalogue` holds now."""

from .moved import moved

__getattr__ = moved(
    __name__,
    "ncfast.catalogue",
    {
        "PER_CLASS": "PER_CLASS",
        "ROUNDING": "ROUNDING",
        "RANGES": lambda found: {key: metric.range for key, metric in found.METRICS.items()},
        "Range": "Range",
        "range_of": "range_of",
        "remark": "remark",
    },
)
