"""What training a model would take, before anything is loaded or rented."""

from __future__ import annotations

from .architectures import ARCHITECTURES, read_config
from .job import EVERY, RESERVE, DevicePlan, PlanSettings, plan_choices, plan_model, remedies

__all__ = [
    "ARCHITECTURES",
    "EVERY",
    "RESERVE",
    "DevicePlan",
    "PlanSettings",
    "plan_choices",
    "plan_model",
    "read_config",
    "remedies",
]
