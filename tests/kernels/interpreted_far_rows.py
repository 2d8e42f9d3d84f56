"""Rows and columns 2^31 elements apart, on Triton kernels, in the interpreter.

``test_interpreted.py`` runs this file in a process with TRITON_INTERPRET=1.
"""

from tests.ops.test_far_rows import test_offsets_past_two_to_the_31st

__all__ = ["test_offsets_past_two_to_the_31st"]
