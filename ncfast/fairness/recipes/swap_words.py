"""The closed classes and lists that the swapper goes by; our own, and short enough to read."""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Pronouns whose counterpart depends on nothing; "her" and "his" are the swapper's own.
ELSEWHERE = (("she", "he"), ("herself", "himself"))
# "him" and "hers" come back as "her" and "his" where these are so read.
ONE_WAY = {
    "him": "her",
    "hers": "his",
    "lady": "gentleman",
    "ladies": "gentlemen",
    "gentleman": "lady",
    "gentlemen": "ladies",
    "ms": "mr",
    "bridegroom": "bride",
}
# Pairs of the word set that are no counterparts in running text: "oh god", "lion", "a host of".
UNLIKE = _set(
    """her his him hers she he herself himself god gods goddess goddesses lord host hosts hostess
    hostesses hero heroes heroine heroines steward stewardess lion lioness tiger tigress tailor
    seamstress monk monks nun nuns rooster roosters hen hens stallion stallions mare mares
    lass lad lasses lads wizard wizards witch witches spinster bachelor estrogen testosterone
    vagina penis ovaries testicles uterus prostate maternity paternity sorority fraternity
    fraternal sororal masseuse masseur"""
)
# After a "her" or "his" that belongs to no noun: prepositions, conjunctions, determiners,
# pronouns, auxiliaries, adverbs of place and time. None of them begins a noun phrase.
AFTER_OBJECT = _set(
    """of in on at by for with from to into onto upon about against among around as before behind
    below beneath beside besides between beyond despite during except near off out over since
    through throughout till toward towards under until up without within via than
    and or but nor yet so because although though while whereas if unless whether when whenever
    where wherever after once that which who whom whose what how why
    the a an this these those some any no every each either neither another both
    i you he she it we they me us them him himself herself myself yourself itself themselves
    ourselves his her hers its their your my our mine yours theirs
    is are was were be been being am do does did has have had will would shall should can could may
    might must cannot not never
    yesterday today tomorrow tonight now then again too also here there soon ago already away
    anymore anyway instead often always sometimes maybe perhaps together apart aside everywhere
    somewhere indeed"""
)
# After "her" these begin a noun phrase or follow an object: "hurt her back", "called her back".
EITHER = _set(
    """back past inside outside down along across above like well right left still home all more
    most much less little one two three four five six seven eight nine ten first second last next
    half enough even just only else alone almost quite very rather ever such many several few
    other others better best worse hard fast straight forward upstairs downstairs long late early
    later earlier twice free sick happy sad angry safe pregnant go come know think feel cry
    laugh leave run walk work help play sleep eat drink see hear be become take make get give
    tell say speak sing dance die live love want need wait stay sit stand fall"""
)
# Adjectives and nouns in -ly; other words in -ly say how something was done.
NOT_MANNER = _set(
    """family early daily weekly monthly yearly elderly lovely lively lonely friendly only holy
    ugly silly belly jelly bully ally reply supply fly lily likely unlikely deadly heavenly costly
    orderly motherly fatherly sisterly brotherly womanly manly worldly earthly homely cowardly
    curly hilly smelly wobbly wrinkly prickly assembly anomaly monopoly"""
)
# Verbs after which "her" with a noun or verb may be an object: "gave her books", "saw her jump".
DATIVE = _set(
    """give gives gave given giving tell tells told telling show shows showed shown showing send
    sends sent sending bring brings brought bringing buy buys bought buying offer offers offered
    offering teach teaches taught teaching ask asks asked asking call calls called calling make
    makes made making let lets letting help helps helped helping see sees saw seen seeing hear
    hears heard hearing watch watches watched watching feel feels felt feeling have has had having
    pay pays paid paying lend lends lent owe owes owed wish wishes wished cost costs grant grants
    granted hand hands handed leave leaves left read reads write writes wrote cook cooks cooked
    name names named elect elects elected consider considers considered find finds found keep
    keeps kept get gets got getting save saves saved spare spared deny denied allow allowed cause
    caused promise promises promised award awarded earn earned serve served feed fed throw threw
    pass passes passed tells assign assigned"""
)
# First names that are hardly ever words, places or of the other gender, likely ones with likely.
_NAMES = """
    Mary/John Patricia/Robert Jennifer/Michael Linda/David Elizabeth/William Barbara/Richard
    Susan/Joseph Jessica/Thomas Sarah/Charles Karen/Christopher Lisa/Daniel Nancy/Matthew
    Betty/Anthony Sandra/Donald Margaret/Steven Alice/James Kimberly/Andrew Emily/Joshua
    Donna/Kenneth Michelle/Kevin Carol/Brian Amanda/George Melissa/Timothy Deborah/Ronald
    Stephanie/Edward Rebecca/Jason Sharon/Jeffrey Laura/Ryan Cynthia/Jacob Kathleen/Gary
    Amy/Nicholas Angela/Eric Helen/Jonathan Anna/Stephen Brenda/Larry Pamela/Justin
    Nicole/Scott Emma/Brandon Samantha/Benjamin Katherine/Samuel Christine/Gregory
    Rachel/Alexander Catherine/Raymond Carolyn/Patrick Ruth/Dennis Maria/Jerry Diane/Tyler
    Julie/Aaron Olivia/Henry Joyce/Adam Lauren/Nathan Christina/Zachary Joan/Walter
    Jane/Peter Lucy/Harry Sophie/Luke Sue/Tom Anne/Simon Kate/Ben Martha/Philip Ashley/Paul
"""
NAMES = tuple((pair.partition("/")[0], pair.partition("/")[2]) for pair in _NAMES.split())
