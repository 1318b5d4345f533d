"""What only the book needs: checks of its exercises, its figures and sliders, the paper's tables.

exercises/     a module a chapter, a function an exercise: ``check("5.2", your_function)``
plots.py       the figures, one style
interactive.py sliders and rotatable surfaces that need no kernel
paper.py       the paper's Table 1
"""

from igm_book.exercises import check

__all__ = ["check"]
