"""EvalAI's answer normalization, which TextVQA's and VQAv2's official scores apply. No shared state."""

import re

_WORDS = "'aint|ain't arent|aren't cant|can't couldve|could've couldnt|couldn't couldn'tve|couldn't've couldnt've|couldn't've"
_WORDS += " didnt|didn't doesnt|doesn't dont|don't hadnt|hadn't hadnt've|hadn't've hadn'tve|hadn't've hasnt|hasn't"
_WORDS += " havent|haven't hed|he'd hed've|he'd've he'dve|he'd've hes|he's howd|how'd howll|how'll hows|how's Id've|I'd've"
_WORDS += " I'dve|I'd've Im|I'm Ive|I've isnt|isn't itd|it'd itd've|it'd've it'dve|it'd've itll|it'll let's|let's maam|ma'am"
_WORDS += " mightnt|mightn't mightnt've|mightn't've mightn'tve|mightn't've mightve|might've mustnt|mustn't mustve|must've"
_WORDS += " neednt|needn't notve|not've oclock|o'clock oughtnt|oughtn't ow's'at|'ow's'at 'ows'at|'ow's'at 'ow'sat|'ow's'at"
_WORDS += " shant|shan't shed've|she'd've she'dve|she'd've she's|she's shouldve|should've shouldnt|shouldn't"
_WORDS += " shouldnt've|shouldn't've shouldn'tve|shouldn't've somebody'd|somebodyd somebodyd've|somebody'd've"
_WORDS += " somebody'dve|somebody'd've somebodyll|somebody'll somebodys|somebody's someoned|someone'd someoned've|someone'd've"
_WORDS += " someone'dve|someone'd've someonell|someone'll someones|someone's somethingd|something'd"
_WORDS += " somethingd've|something'd've something'dve|something'd've somethingll|something'll thats|that's thered|there'd"
_WORDS += " thered've|there'd've there'dve|there'd've therere|there're theres|there's theyd|they'd theyd've|they'd've"
_WORDS += " they'dve|they'd've theyll|they'll theyre|they're theyve|they've twas|'twas wasnt|wasn't wed've|we'd've we'dve|we'd've"
_WORDS += " weve|we've werent|weren't whatll|what'll whatre|what're whats|what's whatve|what've whens|when's whered|where'd"
_WORDS += " wheres|where's whereve|where've whod|who'd whod've|who'd've who'dve|who'd've wholl|who'll whos|who's whove|who've"
_WORDS += " whyll|why'll whyre|why're whys|why's wont|won't wouldve|would've wouldnt|wouldn't wouldnt've|wouldn't've"
_WORDS += " wouldn'tve|wouldn't've yall|y'all yall'll|y'all'll y'allll|y'all'll yall'd've|y'all'd've y'alld've|y'all'd've"
_WORDS += " y'all'dve|y'all'd've youd|you'd youd've|you'd've you'dve|you'd've youll|you'll youre|you're youve|you've"
CONTRACTIONS = {
    short: long for short, _, long in (pair.partition("|") for pair in _WORDS.split(" "))
}
NUMBERS = dict(
    zip(
        "none zero one two three four five six seven eight nine ten".split(),
        "0 0 1 2 3 4 5 6 7 8 9 10".split(),
        strict=True,
    )
)
ARTICLES = frozenset(("a", "an", "the"))
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_COMMA = re.compile(r"(\d)(\,)(\d)")
_MAX_PERIODS = 32  # the official call passes a flag where the count belongs


def _strip_punctuation(text: str) -> str:
    result = text
    for mark in PUNCTUATION:
        if f"{mark} " in text or f" {mark}" in text or _COMMA.search(text):
            result = result.replace(mark, "")
        else:
            result = result.replace(mark, " ")
    return _PERIOD.sub("", result, count=_MAX_PERIODS)


def normalize(text: str, tokenize: bool) -> str:
    """Lower case, no articles, digits for number words, contractions with their apostrophe.

    With `tokenize` (TextVQA) commas and question marks go first and 's becomes a word of its own.
    """
    text = text.lower()
    if tokenize:
        text = text.replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words = [NUMBERS.get(w, w) for w in _strip_punctuation(text).lower().split()]
    return " ".join(CONTRACTIONS.get(w, w) for w in words if w not in ARTICLES)
