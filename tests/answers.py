"""What the tests of the exercises' checks share: wrong answers, and what they should be told."""

from igm_book.exercises import fault


def faulty(exercise, answer, named):
    """The check finds a fault in the answer and names the property."""
    found = fault(exercise, answer)
    assert found is not None
    assert named in found


def numbered(chapter, *wrongs):
    """Lists of (answer, what it is told), one an exercise -> (number of the exercise, answer, what) for each."""
    return [
        (f"{chapter}.{number}", answer, what)
        for number, wrong in enumerate(wrongs, 1)
        for answer, what in wrong
    ]
