"""Triton kernels, one file per op, each with a launch function of the op's exact signature.

Kernels know nothing of autograd, of dispatch, or of where an op is registered. The core never
imports this package: a row of the dispatch table does, when a call reaches it, so Triton stays an
optional dependency.
"""
