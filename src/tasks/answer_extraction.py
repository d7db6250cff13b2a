"""What a generated text answers, and whether that is the right answer: exact match on GSM8K and MATH.

Numbers (GSM8K; Cobbe et al. 2021, arXiv 2110.14168, whose answers end in `#### 42`; MetaMath; Yu et al. 2023, arXiv
2309.12284, whose answers end in `The answer is: 42`): the first number behind the last of these marks; in a text
without a mark the last number of all. Compared as exact values: 1,200.50 = 1200.5, 3/4 = 0.75, and 42.4 is not 42
(the scripts of PiSSA round to whole numbers, and count a text without a mark as wrong).

Expressions (MATH; Hendrycks et al. 2021, arXiv 2103.03874): what is in the last `\\boxed{...}`, or else behind the
last mark; compared as texts after a normalisation of spaces, units, fractions and roots.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

MARKS = ("The answer is:", "####")
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
# A sign belongs to the number unless it stands behind another one, or a word: 5-3, x-3.
_NUMBER = re.compile(rf"(?:(?<![\w)])[-+])?(?:{_WHOLE}(?:\.\d+)?|\.\d+)(?:/{_WHOLE}(?![.\d]))?")


def behind_mark(text: str) -> str | None:
    """What follows the last mark; None where there is none."""
    place, mark = max((text.rfind(mark), mark) for mark in MARKS)
    return text[place + len(mark) :] if place >= 0 else None


def extract_number(text: str) -> Fraction | None:
    """The number that a text gives as its answer; None where it gives none.

    >>> extract_number("5 + 7 = 12 apples. The answer is: $1,012.50.")
    Fraction(2025, 2)
    """
    text = text.replace("−", "-").replace("$", "")
    marked = behind_mark(text)
    found = _NUMBER.findall(text if marked is None else marked)
    if not found:
        return None
    above, _, below = found[-1 if marked is None else 0].replace(",", "").partition("/")
    if below and not int(below):
        return None
    return Fraction(above) / int(below or 1)


def extract_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{...}` (or `\\fbox{...}`, `\\boxed x`) of a text; None where there is none.

    >>> extract_boxed(r"so $x = \\boxed{\\frac{1}{2}}$.")
    '\\\\frac{1}{2}'
    """
    begins = [match.end() for match in re.finditer(r"\\(?:boxed|fbox)(?![a-z])", text)]
    for begin in reversed(begins):
        rest = text[begin:].lstrip()
        if not rest.startswith("{"):
            return re.split(r"[\s$]", rest, maxsplit=1)[0]
        depth = 0
        for place, character in enumerate(rest):
            depth += (character == "{") - (character == "}")
            if not depth:
                return rest[1:place]
    return None


def extract_expression(text: str) -> str | None:
    """The expression that a text gives as its answer: boxed, or else the sentence behind the last mark."""
    if (boxed := extract_boxed(text)) is not None:
        return boxed
    marked = behind_mark(text)
    return None if marked is None else marked.split(".\n")[0].strip().removesuffix(".").strip()


# In this order: what is removed or rewritten before two expressions are compared.
_REWRITTEN = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\n|\\[!,;: ]|\\left(?![a-z])|\\right(?![a-z])|\\?\$|\\?%", ""),
        (r"\\\\", r"\\"),
        (r"\\[tdc]frac", r"\\frac"),
        (r"\^\{?\\circ\}?|\\degree", ""),
        (r"\\text\{\s[^{}]*\}\s*$", ""),  # a unit at the end
        (r"(?<![\d}])\.(?=\d)", "0."),
        (r"^\s*\S{1,2}\s*=", ""),  # x = 5
        (r"\s+", ""),
        (r"\\sqrt([^{\\])", r"\\sqrt{\1}"),
        (r"\\frac([^{\\])", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\})([^{\\])", r"\1{\2}"),
        (r"^0\.5$", r"\\frac{1}{2}"),
        (r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}"),
    )
)


def normalise(expression: str) -> str:
    """An expression in the form in which equal ones are (mostly) equal texts.

    >>> normalise(r" x = \\dfrac12\\,\\text{ cm}") == normalise("1/2")
    True
    """
    for pattern, new in _REWRITTEN:
        expression = pattern.sub(new, expression)
    return expression


def same_number(completion: str, reference: str) -> bool:
    """Whether a text gives the number that the reference gives.

    Raises:
        ValueError: the reference has no number.
    """
    wanted = extract_number(reference)
    if wanted is None:
        raise ValueError(f"the reference {_short(reference)} has no number")
    return extract_number(completion) == wanted


def same_expression(completion: str, reference: str) -> bool:
    """Whether a text gives the expression of the reference (all of it, where nothing in it is boxed or marked).

    Raises:
        ValueError: the reference is empty.
    """
    wanted = extract_expression(reference)
    wanted = normalise(reference if wanted is None else wanted)
    if not wanted:
        raise ValueError(f"the reference {_short(reference)} has no answer")
    found = extract_expression(completion)
    return found is not None and normalise(found) == wanted


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"...{text[-57:]}")


RULES: Mapping[str, Callable[[str, str], bool]] = {"number": same_number, "expression": same_expression}
