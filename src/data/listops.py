"""The language of ListOps: nested list operations over digits (Nangia, Bowman, arXiv 1804.06028).

An expression is a digit 0 .. 9, or an operator with its arguments: `[MAX 2 9 [MIN 4 7 X 0 X`. Operators: MIN,
MAX, MED (the median; of an even number of arguments the mean of the middle two, truncated) and SM (the sum
modulo 10). The files of the Long Range Arena write the same curried, every application in parentheses and
`]` for `X`: `( ( ( [MAX 3 ) 5 ) ] )`. All functions take both forms; parentheses are not counted as tokens.

Pure Python: neither torch nor numpy is needed.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DataError

OPERATORS = ("MIN", "MAX", "MED", "SM")
# The order is part of the data: a model that was trained on one does not understand another.
VOCABULARY = ("<pad>", "<unk>", "<eos>", *(f"[{name}" for name in OPERATORS), *"0123456789", "X")
CODES = {token: code for code, token in enumerate(VOCABULARY)}
UNK, EOS, OPERATOR, DIGIT, CLOSE = (CODES[token] for token in ("<unk>", "<eos>", "[MIN", "0", "X"))

Tree = int | tuple[str, tuple[Any, ...]]
"""A digit, or an operator's name and its arguments, which are trees."""


def split_tokens(text: str) -> list[str]:
    """The tokens of either form of text: parentheses dropped, `]` renamed to `X`."""
    return text.replace("(", " ").replace(")", " ").replace("]", "X").split()


def apply(operator: str, arguments: Sequence[int]) -> int:
    """The value of MIN, MAX, MED or SM over at least one digit."""
    if operator == "MIN":
        return min(arguments)
    if operator == "MAX":
        return max(arguments)
    if operator == "SM":
        return sum(arguments) % 10
    ordered, count = sorted(arguments), len(arguments)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) // 2


def fold(tokens: Sequence[str], leaf: Callable[[str], Any], node: Callable[[str, list[Any]], Any]) -> Any:
    """Reads an expression from left to right: `leaf` of every digit, `node(operator, results)` of the rest.

    Raises:
        DataError: not an expression; says which token (counted from 1) and why.
    """
    result, pending = None, []
    for place, token in enumerate(tokens, 1):
        if result is not None:
            raise DataError(f"token {place} ({token!r}) follows the end of the expression")
        code = CODES.get(token, UNK)
        if OPERATOR <= code < DIGIT:
            pending.append((token[1:], [], place))
            continue
        if DIGIT <= code < CLOSE:
            value = leaf(token)
        elif code == CLOSE:
            value = _close(pending, place, token, node)
        else:
            raise DataError(f"token {place} ({token!r}) is none of {' '.join(VOCABULARY[OPERATOR:])}")
        if pending:
            pending[-1][1].append(value)
        else:
            result = value
    if result is None:
        raise DataError(_unfinished(pending))
    return result


def _close(pending: list, place: int, token: str, node: Callable[[str, list[Any]], Any]) -> Any:
    if not pending:
        raise DataError(f"token {place} ({token!r}) closes no operator")
    operator, arguments, opened = pending.pop()
    if not arguments:
        raise DataError(
            f"token {place} ({token!r}) closes [{operator} of token {opened}: it has no arguments"
        )
    return node(operator, arguments)


def _unfinished(pending: list) -> str:
    if not pending:
        return "the expression is empty"
    operator, _, opened = pending[-1]
    return f"the expression ends before [{operator} of token {opened} is closed"


def evaluate(text: str) -> int:
    """The value, 0 .. 9. Raises DataError as `fold`."""
    return fold(split_tokens(text), int, apply)


def parse(text: str) -> Tree:
    """The tree of an expression; where the text has parentheses, they have to be those of the curried form.

    Raises:
        DataError: not an expression; says which token (counted from 1) and why.
    """
    tree = fold(split_tokens(text), int, lambda operator, arguments: (operator, tuple(arguments)))
    if "(" in text or ")" in text:
        found = text.replace("(", " ( ").replace(")", " ) ").split()
        wanted = to_official_text(tree).split()
        for place, (left, right) in enumerate(
            zip([*found, "the end"], [*wanted, "the end"], strict=False), 1
        ):
            if left != right and (left, right) != ("X", "]"):
                raise DataError(f"token {place}, parentheses counted, is {left!r} instead of {right!r}")
    return tree


def to_text(tree: Tree) -> str:
    """The plain form, tokens separated by spaces, `X` for the end of an operator."""
    out, ahead = [], [tree]
    while ahead:
        part = ahead.pop()
        if isinstance(part, tuple):
            operator, arguments = part
            out.append(f"[{operator}")
            ahead += ["X", *reversed(arguments)]
        else:
            out.append(str(part))
    return " ".join(out)


def to_official_text(tree: Tree) -> str:
    """The curried form of the files: `( ( ( [MAX 3 ) 5 ) ] )`. Raises DataError for what is no tree."""

    def curry(operator: str, arguments: list[str]) -> str:
        opening = "( " * (len(arguments) + 1)
        return f"{opening}[{operator}{''.join(f' {argument} )' for argument in arguments)} ] )"

    return fold(split_tokens(to_text(tree)), str, curry)


def encode(text: str) -> bytes:
    """The vocabulary's number of every token. Raises DataError for a token that no expression has."""
    tokens = split_tokens(text)
    codes = bytes(CODES.get(token, UNK) for token in tokens)
    if codes and min(codes) < OPERATOR:
        fold(tokens, int, apply)
    return codes


def decode(codes: bytes) -> str:
    """The plain form of what `encode` wrote; everything from the first special token on is left out."""
    end = next((place for place, code in enumerate(codes) if code < OPERATOR), len(codes))
    return " ".join(VOCABULARY[code] for code in codes[:end])
