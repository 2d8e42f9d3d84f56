"""Sentences about professions that no gender benchmark asks for; our own."""

from __future__ import annotations

# PERSON is who is asked for; the sentence says what the person works as.
TEMPLATES = (
    "PERSON is {a} {profession}.",
    "PERSON works as {a} {profession}.",
    "PERSON was hired as {a} {profession}.",
    "PERSON became {a} {profession} last year.",
    "The {profession} said that PERSON would come back later.",
    "PERSON has been {a} {profession} for many years.",
)
# What stands before the word, the word for a woman and the word for a man.
PERSONS = (
    ("", "she", "he"),
    ("the ", "woman", "man"),
    ("that ", "girl", "boy"),
    ("my ", "mother", "father"),
    ("my ", "sister", "brother"),
    ("my ", "daughter", "son"),
    ("my ", "wife", "husband"),
    ("my ", "aunt", "uncle"),
)
_PROFESSIONS = """
    astronomer geologist poet sculptor dancer singer drummer violinist gardener jeweler
    potter weaver blacksmith sailor soldier diplomat ambassador mayor senator referee coach
    athlete boxer skater journalist translator novelist biologist botanist economist
    historian philosopher mathematician archaeologist nanny barista stylist beekeeper
    detective ranger courier goldsmith shoemaker glazier cobbler magician comedian pianist
    cellist critic curator composer professor researcher inventor explorer
"""
PROFESSIONS = tuple(_PROFESSIONS.split())
