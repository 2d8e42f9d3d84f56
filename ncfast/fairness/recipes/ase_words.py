"""Pronouns, and words that stereotypes are about; our own lists."""

from __future__ import annotations

PRONOUNS = ("he", "she", "him", "her", "his", "hers", "himself", "herself")
_STEREOTYPED = """
    nurse secretary receptionist housekeeper librarian hairdresser teacher cleaner cashier dancer
    nanny maid babysitter dietitian florist doctor engineer manager lawyer surgeon pilot soldier
    programmer scientist mechanic carpenter plumber electrician driver farmer boss captain
    architect banker judge senator professor sheriff guard butcher miner beautiful pretty gentle
    emotional caring sensitive shy weak gossip strong brave aggressive ambitious confident logical
    rational violent tough
"""
STEREOTYPED = tuple(_STEREOTYPED.split())
