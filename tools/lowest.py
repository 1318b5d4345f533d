"""The lower bounds of pyproject.toml as pip's constraints: python tools/lowest.py FILE

FILE is written anew only where its content changes. Only the packages that pyproject.toml names are held at their bound; what those need comes as pip finds it.
"""

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)(?:,<[\w.]+)?")


def lowest(pyproject: dict) -> list[str]:
    """``name==version`` for every dependency.

    Raises:
        ValueError: a dependency is not of the form ``name>=version`` or ``name>=version,<version``.
    """
    project = pyproject["project"]
    declared = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    if wrong := [line for line in declared if not BOUND.fullmatch(line)]:
        raise ValueError(f"pyproject.toml: {wrong[0]!r} has no lower bound: write name>=version")
    return sorted("{}=={}".format(*BOUND.fullmatch(line).groups()) for line in declared)


if __name__ == "__main__":
    text = "\n".join(lowest(tomllib.loads(Path("pyproject.toml").read_text()))) + "\n"
    file = Path(sys.argv[1])
    if not file.is_file() or file.read_text() != text:
        file.write_text(text)
