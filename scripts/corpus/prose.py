"""Which paragraphs are plain English prose and in what form they are kept; which repeat others; the splits."""
import hashlib
import re
import unicodedata

# ------------------------------------------------------------------------------------------ form

# What the same sign is typed as in other documents: a small model needs one form of each.
PLAIN = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2032": "'",
    "\u2033": '"', "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "--", "\u2015": "--", "\u2212": "-",
    "\u2026": "...", "\u00a0": " ", "\u2007": " ", "\u202f": " ", "\u2192": "->", "\u2190": "<-", "\u2264": "<=",
    "\u2265": ">=", "\u2260": "!=", "\u2023": ">", "\ufb01": "fi", "\ufb02": "fl", "\u00b5": "u", "\u03bc": "u",
    "\u2122": "", "\u00ae": "", "\u00ad": "", "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": ""})

# A report's number in brackets, as release notes have it: "[perl #70998]", "(#1234)".
TRACKER = re.compile(r" ?[\[(](?:(?:perl|rt\.perl\.org|rt\.cpan\.org|cpan|rt|gh|bpo|issue|bug)[ -]?)?#\d+[\])]", re.I)
# The last sentence of a text that leads to a listing or a list: that is mostly left out, so its announcement goes too.
LEAD_IN = re.compile(r"""^(?:(.*[.!?]["')\]]*) )?(?![a-z]).*:$""")


def normalized(text: str) -> str:
    """One line, one form of each quotation mark and dash, no space in front of punctuation, no lead-in at the end."""
    text = TRACKER.sub("", " ".join(unicodedata.normalize("NFC", text).translate(PLAIN).split()))
    text = re.sub(r" +([,;)](?:\s|$)|\.$)", r"\1", text)
    return LEAD_IN.sub(lambda match: match[1] or "", text) if text.endswith(":") else text


# --------------------------------------------------------------------------------------- filter

# Words that join the others in any English sentence: code, tables and other languages have few of them.
FUNCTION_WORDS = frozenset("""
a about after all also although an and any are as at be because been before being between both but by can could did do does
done down during each either else few for from had has have having he her here him his how however i if in into is it its
itself just like many may me might more most much must my neither no nor not now of off on once one only or other our out over
own per quite rather same shall she should since so some still such than that the their them then there therefore these they
this those though thus to too under until up upon us use used using very was we were what when where whether which while who
whom whose why will with within without would yet you your""".split())

MINIMUM_WORDS = 10
MINIMUM_PLAIN = 0.75  # of the tokens, those that are words as they stand in prose
MINIMUM_LETTERS = 0.9  # of the characters, letters, spaces and the punctuation of sentences
MINIMUM_FUNCTION = 0.2  # of the tokens, the function words

WORD = re.compile(r"""["'(\[]*[A-Za-z\u00c0-\u024f]+(?:['/-][A-Za-z\u00c0-\u024f]+)*[.,;:!?"')\]]*""")
PROSE_CHARACTER = re.compile(r"[A-Za-z\u00c0-\u024f .,;:!?'\"()-]")
FOREIGN_CHARACTER = re.compile(r"[^ -~\u00c0-\u024f\u00a3\u00b0\u00b1\u00bd]")
MARKUP = re.compile(r"``|:\w+:`")  # reStructuredText that its own reader did not recognise
ADDRESS = re.compile(r"\w://|\bwww\.|\w@\w+\.\w|mailto:")
ENDING = re.compile(r"""[.!?][)\]"'*]*(?: ?\[[^\]]*\][.)"']*)?$""")  # a source in brackets may follow


def rejection(text: str) -> str | None:
    """Why a normalized paragraph is not kept as prose; None for one that is."""
    tokens = text.split()
    if len(tokens) < MINIMUM_WORDS:
        return "short"
    if not ENDING.search(text):
        return "no end of a sentence"
    first = tokens[0].strip("\"'([")
    # A word in lower case goes on from something left out, or describes a parameter; an identifier may begin a sentence.
    if re.fullmatch(r"[a-z]+[,;:]?", first) or not (first[:1].isalnum() or first[:1] in "-$@%_/.<"):
        return "no beginning of a sentence"
    if ADDRESS.search(text):
        return "addresses"
    if (FOREIGN_CHARACTER.search(text) or MARKUP.search(text) or
            len(PROSE_CHARACTER.findall(text)) < MINIMUM_LETTERS * len(text) or
            sum(WORD.fullmatch(t) is not None for t in tokens) < MINIMUM_PLAIN * len(tokens)):
        return "symbols and identifiers"
    if sum(t.strip(".,;:!?\"'()[]").lower() in FUNCTION_WORDS for t in tokens) < MINIMUM_FUNCTION * len(tokens):
        return "no sentence"
    return None


# ---------------------------------------------------------------------------------- repetitions

SHINGLE = 5  # words
NEAR_DUPLICATE = 0.5  # of a paragraph's shingles, those that were there before
COPIED_RUN = 13  # words; a held-out paragraph that shares so many in a row with the training texts is left out


def shingles(text: str) -> list[bytes]:
    """Hashes of all runs of SHINGLE words, regardless of case, punctuation and the values of numbers.

    The hash is not Python's own, which differs from run to run.
    """
    words = ["0" if w[0].isdigit() else w for w in re.findall(r"[^\W\d_]+|\d+", text.lower())]
    runs = [" ".join(words[i:i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))]
    return [hashlib.blake2b(run.encode(), digest_size=8).digest() for run in runs]


def is_near_duplicate(of_text: list[bytes], known: set[bytes]) -> bool:
    """Whether half of a text's shingles are known. They may come from several texts: so a paragraph that is
    put together from others counts as well, and one that is contained in a longer one, which a comparison of pairs
    by their Jaccard index would miss."""
    return sum(s in known for s in of_text) >= NEAR_DUPLICATE * len(of_text)


def is_copied(of_text: list[bytes], known: set[bytes]) -> bool:
    """Whether COPIED_RUN words in a row may stand in the known texts: all shingles in that run are known."""
    row = 0
    for s in of_text:
        row = row + 1 if s in known else 0
        if row > COPIED_RUN - SHINGLE:
            return True
    return False


# ---------------------------------------------------------------------------------------- splits

SPLITS = ("train", "validation", "test")
HELD_OUT = 0.02  # of the bytes, for validation and for test


def rank(path: str, seed: int = 0) -> bytes:
    """A place in an order that has nothing to do with the contents and stays when other documents come or go."""
    return hashlib.sha256(f"{seed}:{path}".encode()).digest()


def split(sizes: dict[str, int]) -> dict[str, str]:
    """A split for every document, by the hash of its path.

    The documents go in the order of their hashes to the test or the validation set, whichever has more room, until
    both are full. One that would be more than a third of such a set is trained on. A threshold on the hash itself
    would leave a package of few documents, some of them large, far from the share that is asked for.
    """
    quota = HELD_OUT * sum(sizes.values())
    room = {"test": quota, "validation": quota}
    result = {}
    for path in sorted(sizes, key=rank):
        name = max(room, key=room.get)
        if sizes[path] > min(room[name], quota / 3):
            name = "train"
        else:
            room[name] -= sizes[path]
        result[path] = name
    return result


def limits(sizes: dict[str, int], target: int) -> dict[str, int]:
    """How many bytes each package may give so that they sum up to the target: the largest are cut to the same size."""
    result, left = {}, target
    for count, name in zip(range(len(sizes), 0, -1), sorted(sizes, key=sizes.get)):
        result[name] = min(sizes[name], left // count)
        left -= result[name]
    return result
