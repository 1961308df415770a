"""What the pocket world knows by heart: people, old words, cities, clans.

All tables are drawn once from a fixed seed, so they are the same on every machine. A model can
only answer questions about them from its weights: this is what makes quantization hurt.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

COUNTRY_CODES = "UK US FR DE IT ES JP CN IN BR CA MX EG KE NG ZA SE NO FI PL PT GR TR RU AR CL PE CO VN TH".split()
JOBS = (
    "baker teacher doctor farmer pilot nurse painter lawyer miner singer dancer writer tailor "
    "cook sailor guard judge potter weaver barber hunter fisher mason carpenter plumber actor clerk "
    "banker chemist dentist editor florist grocer jeweler librarian mechanic notary optician porter"
).split()
PETS = "cat dog horse goat rabbit parrot snake turtle mouse duck goose sheep monkey lizard ferret crow".split()
FOODS = (
    "bread rice soup cheese apple grape lemon melon onion carrot potato honey butter salad noodle "
    "pepper olive peach mango plum walnut cake toast pasta"
).split()
COUNTRIES = "north south east west coast island valley desert forest mountain lake plain".split()
NOUNS = (
    "river stone house bridge tree flower mountain ocean cloud rain snow wind fire water earth metal gold silver "
    "iron wood paper glass cloth leather window door wall roof floor table chair bed lamp candle mirror clock "
    "book letter pen ink map road path field garden hill valley cave island beach harbor ship boat anchor sail "
    "wheel cart horse bird fish wolf bear fox deer lion eagle owl snake spider bee ant butterfly shell feather "
    "bone skin blood heart hand foot head eye ear nose mouth tooth hair king queen prince knight soldier "
    "merchant priest monk thief friend enemy brother sister mother father child baby name word story song drum "
    "flute bell dance game ball rope net trap knife sword shield arrow spear hammer axe saw nail needle thread "
    "button coat shirt shoe hat ring crown belt bag box basket bottle cup bowl plate spoon fork oven bread salt "
    "sugar spice oil wine milk egg meat fruit seed root leaf branch grass moss sand dust mud clay smoke ash ice "
    "storm thunder star moon sun sky night day morning evening summer winter spring autumn year month week hour"
).split()
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
ATTRIBUTES = ("job", "pet", "food", "city")


def _syllables() -> list[str]:
    return [c + v for c in "BDFGKLMNPRSTVZ" for v in "AEIOU"]


@lru_cache(maxsize=1)
def _names() -> tuple[list[str], list[str], list[str]]:
    """Invented names, all different: 300 people (4 letters), 48 cities (6), 64 clans (4)."""
    rng = np.random.default_rng(7)
    syllables = _syllables()
    fours = [a + b for a in syllables for b in syllables]
    rng.shuffle(fours)
    sixes = ["".join(rng.choice(syllables, 3)) for _ in range(200)]
    return fours[:300], list(dict.fromkeys(sixes))[:48], fours[300:364]


@lru_cache(maxsize=1)
def people() -> dict[str, dict[str, str]]:
    """Name -> job, pet, food, city."""
    rng = np.random.default_rng(8)
    names, towns, _ = _names()
    pools = {"job": JOBS, "pet": PETS, "food": FOODS, "city": towns}
    return {n: {a: str(rng.choice(pools[a])) for a in ATTRIBUTES} for n in names}


@lru_cache(maxsize=1)
def cities() -> dict[str, str]:
    """City -> the land it lies in."""
    rng = np.random.default_rng(9)
    return {c: str(rng.choice(COUNTRIES)) for c in _names()[1]}


@lru_cache(maxsize=1)
def words() -> dict[str, str]:
    """Word of the old language (vowel first, so it is no name) -> English noun."""
    rng = np.random.default_rng(10)
    nouns = list(dict.fromkeys(NOUNS))
    ends = [s[::-1] for s in _syllables()]
    pairs = [a + b for a in ends for b in ends]
    rng.shuffle(pairs)
    return dict(zip(pairs, nouns, strict=False))


@lru_cache(maxsize=1)
def clans() -> dict[str, str]:
    """Emblem ("red circle") -> clan name."""
    from luq.pocket.world import COLOUR_NAMES, SHAPES

    emblems = [f"{c} {s}" for c in COLOUR_NAMES for s in SHAPES]
    return dict(zip(emblems, _names()[2], strict=True))


def pick(rng: np.random.Generator, table: Mapping[str, object]) -> str:
    """One key of `table`."""
    keys = list(table)
    return keys[int(rng.integers(len(keys)))]


def document_fields(rng: np.random.Generator, n: int) -> dict[str, str]:
    """`n` printed fields; keys have at most 6 characters, values at most 6."""
    values = {
        "NAME": lambda: pick(rng, people()),
        "CITY": lambda: pick(rng, cities()),
        "TOTAL": lambda: str(rng.integers(100, 10000)),
        "DATE": lambda: f"{rng.integers(10, 29)} {rng.choice(MONTHS)}",
        "ROOM": lambda: str(rng.integers(10, 1000)),
        "PHONE": lambda: str(rng.integers(100000, 1000000)),
        "CODE": lambda: f"{rng.choice(_syllables())}{rng.integers(10, 100)}",
        "ITEM": lambda: pick(rng, words()),
        "TAX": lambda: str(rng.integers(1, 100)),
        "YEAR": lambda: str(rng.integers(1900, 2030)),
    }
    keys = rng.permutation(list(values))[:n]
    return {str(k): values[str(k)]() for k in keys}
