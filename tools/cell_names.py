"""Which names a notebook's cells give to each other: python tools/cell_names.py NOTEBOOKS lists what breaks the rule.

A reader runs cells again and out of order. That is safe where no cell takes away what another one needs:

1. a name that a cell needs from another one, or that a function needs when it is called later, has one meaning in the
   whole notebook: one cell binds it (or all that do import the same thing);
2. a cell changes nothing that another one has made: nothing is appended to its list, no entry of its table is set.

Cells are counted from 0, without the text between them, as nbval counts them.

Names that a cell binds before it reads them, its loop variables and its axes, are its own and may come again.
"""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

CHANGE = {"append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "add"}
CHANGE |= {"discard", "popitem", "sort", "reverse", "appendleft", "popleft"}
SHELL = {"system", "getoutput", "run_line_magic", "run_cell_magic"}  # what ! and % lines call
IN_BRACES = re.compile(r"\{(\w+)")  # and what these take from Python


class Names(ast.NodeVisitor):
    """The names of one cell, or of one function in it.

    bound: name -> how (the import, or None); needed: read before they are bound; later: read by a function, which may
    be called when other cells have run; changed: whose list or table is changed though it was made outside.
    """

    def __init__(self, bound=()):
        self.bound, self.needed, self.later, self.changed = (
            dict.fromkeys(bound),
            set(),
            set(),
            set(),
        )

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            if node.id not in self.bound:
                self.needed.add(node.id)
        else:
            self.bound.setdefault(node.id, None)

    def visit_Import(self, node):
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            origin = alias.name if alias.asname else name
            self.bound[name] = f"{getattr(node, 'module', '')} {origin}"

    visit_ImportFrom = visit_Import

    def visit_Assign(self, node):
        self.visit(node.value)
        for target in node.targets:
            self.target(target)

    def visit_AugAssign(self, node):
        self.visit(node.value)
        if isinstance(node.target, ast.Name) and node.target.id not in self.bound:
            self.needed.add(node.target.id)
        self.target(node.target)

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)
            self.target(node.target)

    def visit_NamedExpr(self, node):
        self.visit(node.value)
        self.visit(node.target)

    def visit_For(self, node):
        self.visit(node.iter)
        self.target(node.target)
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_ExceptHandler(self, node):
        if node.name:
            self.bound.setdefault(node.name, None)
        self.generic_visit(node)

    def visit_Call(self, node):
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in CHANGE:
                self.change(node.func.value)
            if node.func.attr in SHELL:
                texts = [str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)]
                self.needed |= set(IN_BRACES.findall(" ".join(texts))) - set(self.bound)
        self.generic_visit(node)

    def target(self, node):
        """What is assigned to: a name, or an entry of something."""
        if isinstance(node, ast.Subscript):
            self.change(node.value)
        self.visit(node)

    def change(self, node):
        while isinstance(node, ast.Subscript):
            node = node.value
        if isinstance(node, ast.Name) and node.id not in self.bound:
            self.changed.add(node.id)

    def comprehension(self, node):
        inner = Names(self.bound)
        for part in node.generators:
            inner.visit(part.iter)
            inner.visit(part.target)
            for condition in part.ifs:
                inner.visit(condition)
        for name in ("key", "value", "elt"):
            if hasattr(node, name):
                inner.visit(getattr(node, name))
        self.take(inner)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension

    def visit_Lambda(self, node):
        self.defaults(node.args)
        inner = Names({*self.bound, *arguments(node.args)})
        inner.visit(node.body)
        self.take(inner)

    def visit_FunctionDef(self, node):
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.defaults(node.args)
        inner = Names(arguments(node.args))
        own = Names(
            arguments(node.args)
        )  # first what it binds anywhere in its body, then what it reads
        for statement in node.body:
            own.visit(statement)
        inner.bound |= own.bound
        for statement in node.body:
            inner.visit(statement)
        self.later |= inner.needed | inner.later - set(inner.bound)
        self.changed |= inner.changed - set(self.bound)
        self.bound[node.name] = None

    def visit_ClassDef(self, node):
        for base in [*node.bases, *(keyword.value for keyword in node.keywords)]:
            self.visit(base)
        inner = Names(self.bound)
        for statement in node.body:
            inner.visit(statement)
        self.take(inner)
        self.bound[node.name] = None

    def defaults(self, args):
        for default in [*args.defaults, *(d for d in args.kw_defaults if d)]:
            self.visit(default)

    def take(self, inner):
        """What runs at once, in a scope of its own."""
        self.needed |= inner.needed
        self.later |= inner.later
        self.changed |= inner.changed


def arguments(args) -> list[str]:
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    return [arg.arg for arg in every if arg]


def python_of(source: str) -> str:
    """A cell whose ! and % lines are calls."""
    return TransformerManager().transform_cell(source)


def names(source: str) -> Names:
    """Of a cell."""
    found = Names()
    found.visit(ast.parse(python_of(source)))
    return found


def check_names(sources: list[str]) -> list[str]:
    """What in these cells, in their order, breaks the rule."""
    cells = [names(source) for source in sources]
    binders = defaultdict(list)
    for number, cell in enumerate(cells):
        for name, how in cell.bound.items():
            binders[name].append((number, how))
    needed = set().union(*(cell.needed | cell.later for cell in cells))
    faults = []
    for name in sorted(needed & set(binders)):
        hows = {how or number for number, how in binders[name]}
        if len(hows) > 1:
            where = ", ".join(str(number) for number, _ in binders[name])
            users = ", ".join(
                str(i) for i, cell in enumerate(cells) if name in cell.needed | cell.later
            )
            faults.append(f"{name} means several things: bound in {where}; needed in {users}")
    for number, cell in enumerate(cells):
        for name in sorted(cell.changed & set(binders)):
            faults.append(f"cell {number} changes {name}, made elsewhere")
    return faults


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        cells = nbformat.read(path, as_version=4).cells
        for fault in check_names([cell.source for cell in cells if cell.cell_type == "code"]):
            print(f"{path.name}: {fault}")
