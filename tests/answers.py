"""What the tests of the exercises' checks share: wrong answers and what they should be told, and right answers."""

import pytest

from igm_book.exercises import fault


def faulty(exercise, answer, told):
    """The check finds a fault in the answer and names the property."""
    found = fault(exercise, answer)
    assert found is not None, "accepted"
    assert told in found


def numbered(chapter, *each):
    """What belongs to exercises 1, 2, ... of a chapter -> a dict by the number in the book."""
    return {f"{chapter}.{number}": cases for number, cases in enumerate(each, 1)}


def two_tests(wrong, right):
    """The two tests that every chapter has.

    Args:
        wrong: exercise -> pairs of an answer and a part of what the reader is told of it.
        right: exercise -> answers that the check has to accept, however they are written.
    """
    assert wrong.keys() == right.keys() and all(wrong.values()) and all(right.values())

    @pytest.mark.parametrize(
        ("exercise", "answer", "told"),
        [(exercise, *case) for exercise, cases in wrong.items() for case in cases],
    )
    def test_wrong(exercise, answer, told):
        faulty(exercise, answer, told)

    @pytest.mark.parametrize(
        ("exercise", "answer"),
        [(exercise, answer) for exercise, answers in right.items() for answer in answers],
    )
    def test_right(exercise, answer):
        assert fault(exercise, answer) is None

    return test_wrong, test_right
