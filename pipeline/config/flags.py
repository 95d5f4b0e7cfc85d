"""Marks that the command line reads off the options."""

from typing import Annotated, TypeVar

from cyclopts import Group, Parameter

T = TypeVar("T")

Advanced = Annotated[T, Parameter(group=Group("Advanced", sort_key=1))]
"""An option that ``--help`` lists below those of every day."""
