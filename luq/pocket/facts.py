"""What the pocket world knows by heart: people, old words, cities, clans.

All tables are drawn once from a fixed seed, so they are the same on every machine. A model can
only answer questions about them from its weights: this is what makes quantization hurt.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from luq.pocket.palette import COLOUR_NAMES, SHAPES

COUNTRY_CODES = (
    "UK US FR DE IT ES JP CN IN BR CA MX EG KE NG ZA SE NO FI PL PT GR TR RU AR CL PE CO VN TH"
).split()
JOBS = (
    "baker teacher doctor farmer pilot nurse painter lawyer miner singer dancer writer tailor "
    "cook sailor guard judge potter weaver barber hunter fisher mason carpenter plumber actor "
    "clerk banker chemist dentist editor florist grocer jeweler librarian mechanic notary "
    "optician porter"
).split()
PETS = (
    "cat dog horse goat rabbit parrot snake turtle mouse duck goose sheep monkey lizard ferret crow"
).split()
FOODS = (
    "bread rice soup cheese apple grape lemon melon onion carrot potato honey butter salad noodle "
    "pepper olive peach mango plum walnut cake toast pasta"
).split()
COUNTRIES = ("north south east west coast island valley desert forest mountain lake plain").split()
NOUNS = (
    "river stone house bridge tree flower mountain ocean cloud rain snow wind fire water earth "
    "metal gold silver iron wood paper glass cloth leather window door wall roof floor table "
    "chair bed lamp candle mirror clock book letter pen ink map road path field garden hill "
    "valley cave island beach harbor ship boat anchor sail wheel cart horse bird fish wolf bear "
    "fox deer lion eagle owl snake spider bee ant butterfly shell feather bone skin blood heart "
    "hand foot head eye ear nose mouth tooth hair king queen prince knight soldier merchant "
    "priest monk thief friend enemy brother sister mother father child baby name word story song "
    "drum flute bell dance game ball rope net trap knife sword shield arrow spear hammer axe saw "
    "nail needle thread button coat shirt shoe hat ring crown belt bag box basket bottle cup bowl "
    "plate spoon fork oven bread salt sugar spice oil wine milk egg meat fruit seed root leaf "
    "branch grass moss sand dust mud clay smoke ash ice storm thunder star moon sun sky night day "
    "morning evening summer winter spring autumn year month week hour"
).split()
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
ATTRIBUTES = ("job", "pet", "food", "city")

CONSONANTS = "BDFGKLMNPRSTVZ"
VOWELS = "AEIOU"
PEOPLE = 300
CITIES = 48
CLANS = 64  # one for every pair of a colour and a shape

# Every table is drawn from a generator of its own, so that one can change without the others.
NAMES_SEED = 7
PEOPLE_SEED = 8
CITIES_SEED = 9
WORDS_SEED = 10

# What a document may print. Its values have at most six characters, as the picture is six cells
# wide and the first three cells of a row hold the key.
DOCUMENT_KEYS = (
    "NAME", "CITY", "TOTAL", "DATE", "ROOM", "PHONE", "CODE", "ITEM", "TAX", "YEAR",
)  # fmt: skip
NUMBER_FIELDS = {  # document key -> the lowest number, and one more than the highest
    "TOTAL": (100, 10_000),
    "ROOM": (10, 1_000),
    "PHONE": (100_000, 1_000_000),
    "TAX": (1, 100),
    "YEAR": (1900, 2030),
}


class InventedNames(NamedTuple):
    """All names of the world; no two are the same."""

    people: list[str]  # four letters
    cities: list[str]  # six letters
    clans: list[str]  # four letters


def _syllables() -> list[str]:
    return [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]


@lru_cache(maxsize=1)
def _names() -> InventedNames:
    rng = np.random.default_rng(NAMES_SEED)
    syllables = _syllables()
    short_names = [first + second for first in syllables for second in syllables]
    rng.shuffle(short_names)
    # Some of 200 draws come twice: more are drawn than are needed.
    long_names = ["".join(rng.choice(syllables, 3)) for _ in range(200)]
    return InventedNames(
        people=short_names[:PEOPLE],
        cities=list(dict.fromkeys(long_names))[:CITIES],
        clans=short_names[PEOPLE : PEOPLE + CLANS],
    )


@lru_cache(maxsize=1)
def people() -> dict[str, dict[str, str]]:
    """Name of a person -> attribute (job, pet, food, city) -> value."""
    rng = np.random.default_rng(PEOPLE_SEED)
    names = _names()
    pools = {"job": JOBS, "pet": PETS, "food": FOODS, "city": names.cities}
    table = {}
    for name in names.people:
        table[name] = {attribute: str(rng.choice(pools[attribute])) for attribute in ATTRIBUTES}
    return table


@lru_cache(maxsize=1)
def cities() -> dict[str, str]:
    """City -> the land it lies in."""
    rng = np.random.default_rng(CITIES_SEED)
    return {city: str(rng.choice(COUNTRIES)) for city in _names().cities}


@lru_cache(maxsize=1)
def words() -> dict[str, str]:
    """Word of the old language -> English noun.

    An old word begins with a vowel, so that it can be no name.
    """
    rng = np.random.default_rng(WORDS_SEED)
    nouns = list(dict.fromkeys(NOUNS))
    endings = [syllable[::-1] for syllable in _syllables()]
    old_words = [first + second for first in endings for second in endings]
    rng.shuffle(old_words)
    return dict(zip(old_words, nouns, strict=False))  # there are more words than nouns


@lru_cache(maxsize=1)
def clans() -> dict[str, str]:
    """Emblem ("red circle") -> clan name."""
    emblems = [f"{colour} {shape}" for colour in COLOUR_NAMES for shape in SHAPES]
    return dict(zip(emblems, _names().clans, strict=True))


def pick(rng: np.random.Generator, table: Mapping[str, object]) -> str:
    """One key of `table`."""
    keys = list(table)
    return keys[int(rng.integers(len(keys)))]


def document_fields(rng: np.random.Generator, count: int) -> dict[str, str]:
    """Printed fields of a document, key -> value.

    Args:
        rng: What keys and values are drawn from.
        count: Number of fields, at most 10.
    """
    keys = rng.permutation(list(DOCUMENT_KEYS))[:count]
    return {str(key): _field_value(rng, str(key)) for key in keys}


def _field_value(rng: np.random.Generator, key: str) -> str:
    if key in NUMBER_FIELDS:
        return str(rng.integers(*NUMBER_FIELDS[key]))
    if key == "NAME":
        return pick(rng, people())
    if key == "CITY":
        return pick(rng, cities())
    if key == "ITEM":
        return pick(rng, words())
    if key == "DATE":
        return f"{rng.integers(10, 29)} {rng.choice(MONTHS)}"  # two digits, and in every month
    # CODE: two letters and two digits
    return f"{rng.choice(_syllables())}{rng.integers(10, 100)}"
