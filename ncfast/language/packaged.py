"""The former place of files inside package wheels, which :mod:`ncfast.wheels` reads now."""

from ..moved import moved

__getattr__ = moved(
    __name__,
    "ncfast.wheels.packaged",
    {
        name: name
        for name in (
            "PackagedFiles",
            "WheelSpec",
            "cache_root",
            "is_packaged",
            "parse_spec",
            "resolve",
        )
    },
)
