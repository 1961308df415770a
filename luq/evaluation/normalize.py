"""EvalAI's answer normalization, which TextVQA's and VQAv2's official scores apply.

The official script has a few slips. Published scores contain them, so they are repeated here.
"""

import re

# A word as annotators and models write it -> the word that is compared. As in the official table,
# some entries change nothing, those with capitals never match a text in lower case, and somebody'd
# loses its apostrophe.
CONTRACTIONS = {
    "aint": "ain't",                    "arent": "aren't",
    "cant": "can't",                    "couldve": "could've",
    "couldnt": "couldn't",              "couldn'tve": "couldn't've",
    "couldnt've": "couldn't've",        "didnt": "didn't",
    "doesnt": "doesn't",                "dont": "don't",
    "hadnt": "hadn't",                  "hadnt've": "hadn't've",
    "hadn'tve": "hadn't've",            "hasnt": "hasn't",
    "havent": "haven't",                "hed": "he'd",
    "hed've": "he'd've",                "he'dve": "he'd've",
    "hes": "he's",                      "howd": "how'd",
    "howll": "how'll",                  "hows": "how's",
    "Id've": "I'd've",                  "I'dve": "I'd've",
    "Im": "I'm",                        "Ive": "I've",
    "isnt": "isn't",                    "itd": "it'd",
    "itd've": "it'd've",                "it'dve": "it'd've",
    "itll": "it'll",                    "let's": "let's",
    "maam": "ma'am",                    "mightnt": "mightn't",
    "mightnt've": "mightn't've",        "mightn'tve": "mightn't've",
    "mightve": "might've",              "mustnt": "mustn't",
    "mustve": "must've",                "neednt": "needn't",
    "notve": "not've",                  "oclock": "o'clock",
    "oughtnt": "oughtn't",              "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",              "'ow'sat": "'ow's'at",
    "shant": "shan't",                  "shed've": "she'd've",
    "she'dve": "she'd've",              "she's": "she's",
    "shouldve": "should've",            "shouldnt": "shouldn't",
    "shouldnt've": "shouldn't've",      "shouldn'tve": "shouldn't've",
    "somebody'd": "somebodyd",          "somebodyd've": "somebody'd've",
    "somebody'dve": "somebody'd've",    "somebodyll": "somebody'll",
    "somebodys": "somebody's",          "someoned": "someone'd",
    "someoned've": "someone'd've",      "someone'dve": "someone'd've",
    "someonell": "someone'll",          "someones": "someone's",
    "somethingd": "something'd",        "somethingd've": "something'd've",
    "something'dve": "something'd've",  "somethingll": "something'll",
    "thats": "that's",                  "thered": "there'd",
    "thered've": "there'd've",          "there'dve": "there'd've",
    "therere": "there're",              "theres": "there's",
    "theyd": "they'd",                  "theyd've": "they'd've",
    "they'dve": "they'd've",            "theyll": "they'll",
    "theyre": "they're",                "theyve": "they've",
    "twas": "'twas",                    "wasnt": "wasn't",
    "wed've": "we'd've",                "we'dve": "we'd've",
    "weve": "we've",                    "werent": "weren't",
    "whatll": "what'll",                "whatre": "what're",
    "whats": "what's",                  "whatve": "what've",
    "whens": "when's",                  "whered": "where'd",
    "wheres": "where's",                "whereve": "where've",
    "whod": "who'd",                    "whod've": "who'd've",
    "who'dve": "who'd've",              "wholl": "who'll",
    "whos": "who's",                    "whove": "who've",
    "whyll": "why'll",                  "whyre": "why're",
    "whys": "why's",                    "wont": "won't",
    "wouldve": "would've",              "wouldnt": "wouldn't",
    "wouldnt've": "wouldn't've",        "wouldn'tve": "wouldn't've",
    "yall": "y'all",                    "yall'll": "y'all'll",
    "y'allll": "y'all'll",              "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",          "y'all'dve": "y'all'd've",
    "youd": "you'd",                    "youd've": "you'd've",
    "you'dve": "you'd've",              "youll": "you'll",
    "youre": "you're",                  "youve": "you've",
}  # fmt: skip
NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
ARTICLES = frozenset(("a", "an", "the"))
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# A period that no digit follows. The official pattern: (?!<=\d) was to be (?<!\d), "no digit
# before", and as it stands is always true.
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"(\d)(\,)(\d)")
# Only so many periods go: the official call passes re.UNICODE, 32, where the count belongs.
_MAX_PERIODS = 32


def _strip_punctuation(text: str) -> str:
    """The text without punctuation: a mark beside a space disappears, others become a space.

    If there is a comma in a number, all marks disappear.
    """
    stripped = text
    has_comma_in_number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        is_beside_space = f"{mark} " in text or f" {mark}" in text
        replacement = "" if is_beside_space or has_comma_in_number else " "
        stripped = stripped.replace(mark, replacement)
    return _PERIOD.sub("", stripped, count=_MAX_PERIODS)


def normalize(text: str, tokenize: bool) -> str:
    """An answer as it is compared.

    Lower case, no articles, digits for number words, contractions with their apostrophe.

    Args:
        text: the answer.
        tokenize: TextVQA's way: commas and question marks go first, and 's becomes a word of its
            own. VQAv2 does without.
    """
    text = text.lower()
    if tokenize:
        text = text.replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words: list[str] = []
    for word in _strip_punctuation(text).split():
        digits = NUMBERS.get(word, word)
        if digits not in ARTICLES:
            words.append(CONTRACTIONS.get(digits, digits))
    return " ".join(words)
