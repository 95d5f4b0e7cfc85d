"""Annotations of options for the command line."""

from typing import Annotated, TypeVar

from cyclopts import Group, Parameter

T = TypeVar("T")

Advanced = Annotated[T, Parameter(group=Group("Advanced", sort_key=1))]
"""An option that ``--help`` lists below the common ones."""
