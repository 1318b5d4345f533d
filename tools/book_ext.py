"""A small Sphinx extension: leave out what pages would load for live kernels, which the book has not.

(sphinx-thebe is part of Jupyter Book and adds its script twice, an error in the browser's console.)
"""


def leave_out_thebe(app, pagename, templatename, context, doctree):
    for files in ("script_files", "css_files"):
        if files in context:
            context[files] = [file for file in context[files] if not is_thebe(file)]


def is_thebe(file) -> bool:
    return "thebe" in f"{file.filename} {file.attributes.get('body', '')}".lower()


def setup(app):
    app.connect("html-page-context", leave_out_thebe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
