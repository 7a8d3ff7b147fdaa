"""Whose fault an error of a program run is: the program's, its model's or its metric's, or the infrastructure's."""

from dspy.utils.exceptions import LMError

from swarmc.contracts.errors import SwarmcError, VenueError, first_swarmc_error


def broken_by(error: Exception) -> SwarmcError | None:
    """The infrastructure's own error behind `error`; `None` when program, model or metric are at fault.

    A venue that refused this very request (`fault` is `request` or `context`) is not at fault itself.
    """
    known = first_swarmc_error(error)
    if isinstance(known, VenueError) and known.fault != "venue":
        return None
    if known is None and isinstance(error, LMError):
        made = VenueError(f"the model call failed outside the meter: {error}")
        made.__cause__ = error
        return made
    return known
