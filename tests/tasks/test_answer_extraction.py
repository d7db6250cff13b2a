from fractions import Fraction

import pytest

from eigenzoo.tasks.answer_extraction import (
    RULES,
    extract_boxed,
    extract_expression,
    extract_number,
    normalise,
    same_expression,
    same_number,
)


@pytest.mark.parametrize(
    "text, number",
    [
        ("The answer is: 42", 42),
        ("It is 7. The answer is: 42.", 42),
        ("The answer is: $1,234.50 in all", "1234.5"),
        ("The answer is: 1,234,567", 1234567),
        ("The answer is: -3", -3),
        ("The answer is: −3", -3),
        ("The answer is: 3/4 of a cake", "3/4"),
        ("The answer is: .5", "1/2"),
        ("The answer is: 12 apples, 3 more than 9", 12),
        ("The answer is: 1. No: The answer is: 2", 2),
        ("48/2 = <<48/2=24>>24 clips\n#### 72", 72),
        ("#### 1,000", 1000),
        ("#### 3 The answer is: 4", 4),
        ("so there are 5 apples and 6 pears", 6),
        ("twelve less than 5-3", 3),
        ("a list: 1, 2, 3", 3),
        ("1,2345", 2345),
        ("The answer is: 50%", 50),
        ("The answer is: unknown", None),
        ("The answer is: 3/0", None),
        ("no number at all", None),
        ("", None),
    ],
)
def test_numbers(text, number):
    assert extract_number(text) == (None if number is None else Fraction(number))


def test_numbers_are_compared_as_values():
    assert same_number("The answer is: 18.00", "#### 18")
    assert same_number("The answer is: 2,400", "#### 2400")
    assert same_number("The answer is: 0.75", "The answer is: 3/4")
    assert not same_number("The answer is: 18.4", "#### 18")
    assert not same_number("", "#### 18")
    with pytest.raises(ValueError, match="the reference 'none' has no number"):
        same_number("1", "none")


@pytest.mark.parametrize(
    "text, expression",
    [
        (r"so $\boxed{5}$", "5"),
        (r"$\boxed{\frac{1}{2}}$ and then $\boxed{x^{2}+1}$.", "x^{2}+1"),
        (r"\fbox{3}", "3"),
        (r"$\boxed 7$ is it", "7"),
        (r"\boxed{unfinished", None),
        (r"\boxed{2} and \boxed{unfinished", "2"),
        (r"The answer is: \frac{1}{2}.", r"\frac{1}{2}"),
        ("The answer is: 3.\nMore", "3"),
        ("nothing", None),
    ],
)
def test_expressions(text, expression):
    assert extract_expression(text) == expression
    if "boxed" in text or "fbox" in text:
        assert extract_boxed(text) == expression


@pytest.mark.parametrize(
    "one, other",
    [
        (r"\dfrac{1}{2}", "1/2"),
        (r"\tfrac12", r"\frac{1}{2}"),
        (r"\frac1{72}", r"\frac{1}{72}"),
        (r"0.5", r"\frac{1}{2}"),
        (r".25", "0.25"),
        (r"x = 5", "5"),
        (r"\$10", "10"),
        (r"50\%", "50"),
        (r"12\text{ cm}", "12"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"-1/3", r"\frac{-1}{3}"),
        (r"1\,000", "1000"),
    ],
)
def test_equal_expressions(one, other):
    assert normalise(one) == normalise(other)
    assert normalise(normalise(one)) == normalise(one)
    assert same_expression(rf"It is $\boxed{{{one}}}$.", other)


@pytest.mark.parametrize(
    "one, other",
    [("1/2", "2/1"), (r"\sqrt{3}", "3"), ("(1,2)", "(2,1)"), ("x+1", "x-1"), (r"\text{odd}", r"\text{even}"),
     ("y = 2x", "x"), (r"\leftarrow", "arrow")],
)  # fmt: skip
def test_unequal_expressions(one, other):
    assert not same_expression(rf"\boxed{{{one}}}", rf"\boxed{{{other}}}")


def test_the_reference_of_an_expression_may_be_bare_or_boxed():
    assert same_expression(r"The answer is: 5.", r"Adding, we find $\boxed{5}$.")
    assert same_expression(r"The answer is: 5", "5")
    assert not same_expression("5", "5"), "a completion must say what its answer is"
    with pytest.raises(ValueError, match="has no answer"):
        same_expression("1", r"\boxed{}")
    assert set(RULES) == {"number", "expression"}
