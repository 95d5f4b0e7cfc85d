"""``docs/api.md`` from docstrings: ``python -m tests.documentation.reference > docs/api.md``."""

import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from types import ModuleType
from typing import Any

import docstring_parser

import models.preprocess
import models.views.ablations
import pipeline.analysis
import pipeline.certificates
import pipeline.notebook

HEAD = """# Python interface

What a notebook or another program may rely on. Made from the docstrings by
`python -m tests.documentation.reference > docs/api.md`; a test holds them against each other.
Nothing here needs Ray, and nothing but `evaluate` a model. [cookbook.md](cookbook.md) has examples,
and so has [a notebook](../examples/notebook.ipynb).
"""
PUBLIC: list[tuple[ModuleType, list[str]]] = [
    (pipeline.notebook, ["evaluate", "Result", "certify", "CertifiedLabels"]),
    (pipeline.analysis, list(pipeline.analysis.__all__)),
    (pipeline.certificates, list(pipeline.certificates.__all__)),
    (models.views.ablations, ["Ablation", "Patch"]),
    (models.preprocess, ["Preprocess"]),
]


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for module, names in PUBLIC:
        parts.append(f"## `{module.__name__}`\n\n{_said(module)}")
        parts += [part for name in names for part in _entry(name, getattr(module, name))]
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> Iterator[str]:
    if not callable(thing):  # a registry
        yield f"### `{name}`\n\n{', '.join(f'`{key}`' for key in thing)}\n"
        return
    yield f"### `{name}{_signature(thing)}`\n\n{_said(thing)}"
    if not inspect.isclass(thing):
        return
    for member, value in vars(thing).items():
        if member.startswith("_") or not inspect.getdoc(value):
            continue
        if isinstance(value, property | cached_property):
            yield f"**`{name}.{member}`** {_said(value)}"
        elif isinstance(value, classmethod | staticmethod) or inspect.isfunction(value):
            bound = getattr(thing, member)
            yield f"**`{name}.{member}{_signature(bound)}`**\n\n{_said(bound)}"


def _signature(thing: Any) -> str:
    """Names and defaults; types are in the code, and what they mean in the text."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(thing).parameters.values()
        if parameter.name != "self"
    ]
    return str(inspect.Signature(parameters))


def _said(thing: Any) -> str:
    """A docstring in Markdown: its text, then its sections as lists."""
    found = docstring_parser.parse(inspect.getdoc(thing) or "", docstring_parser.Style.GOOGLE)
    lines = [found.description or "", ""]
    for param in found.params:
        lines.append(f"- `{param.arg_name}`: {_flat(param.description)}")
    if found.returns and found.returns.description:
        lines.append(f"- returns {_flat(found.returns.description)}")
    for error in found.raises:
        lines.append(f"- raises `{error.type_name}`: {_flat(error.description)}")
    text = "\n".join(lines).rstrip().replace("``", "`") + "\n"
    return re.sub(r"\n{3,}", "\n\n", text)


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    print(reference(), end="")
