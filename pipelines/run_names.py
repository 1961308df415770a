"""What runs are called beside each other: by what differs between them.

A record's name holds every override of its command line, which tells it from any other run. In a
table or a figure of a few runs most of these words are the same everywhere and say nothing.
"""

import re
from collections import Counter
from collections.abc import Sequence

NAMELESS = "default"  # what a run without a word of its own is called
# A word begins at a space before `setting=`: a quoted value may hold spaces.
BETWEEN_WORDS = re.compile(r" (?=[^\s=]+=)")


def words(name: str) -> list[str]:
    """The overrides that a run's name consists of."""
    return BETWEEN_WORDS.split(name)


def labels(names: Sequence[str]) -> list[str]:
    """Short names of runs: without the words that all of them share.

    Args:
        names: of the runs that stand beside each other, as their records have them.

    Returns:
        A label for each, in the same order. Different names have different labels.
    """
    if len(set(names)) < 2:
        return list(names)
    shared = set(words(names[0]))
    for name in names:
        shared &= set(words(name))
    short_names: list[str] = []
    for name in names:
        own_words = [word for word in words(name) if word not in shared]
        short_names.append(" ".join(own_words) or NAMELESS)
    return short_names


def plan_labels(names: Sequence[str]) -> list[str]:
    """Labels of plans, each named by one of its runs: also without seeds and groups of settings.

    `order=lim allocation.k=4 seed=1` is `order=lim k=4`. A group stays where another setting that
    is shown ends in the same word: `calibration.tokens=9 profile.tokens=9`.
    """
    words_by_plan: list[list[str]] = []
    for label in labels(names):
        without_seeds = [word for word in words(label) if not _setting(word).endswith("seed")]
        words_by_plan.append(without_seeds or [label])
    settings = {_setting(word) for plan_words in words_by_plan for word in plan_words}
    endings = Counter(setting.rpartition(".")[2] for setting in settings)
    plan_names: list[str] = []
    for plan_words in words_by_plan:
        plan_names.append(" ".join(_without_group(word, endings) for word in plan_words))
    return plan_names


def _setting(word: str) -> str:
    """The setting that a word of a name sets: `order.seed` of `order.seed=1`."""
    return word.partition("=")[0]


def _without_group(word: str, endings: Counter[str]) -> str:
    """A word without the group of its setting, unless other settings end as it does."""
    setting, sign, value = word.partition("=")
    ending = setting.rpartition(".")[2]
    is_unique = bool(sign) and endings[ending] == 1
    return f"{ending}{sign}{value}" if is_unique else word
