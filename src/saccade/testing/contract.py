"""The contract: all checks. Checks whose failures are easiest to understand come first."""

from __future__ import annotations

from types import ModuleType

from saccade.layers.spec import Spec
from saccade.testing import compilation, documentation, numerics, recording, structure
from saccade.testing.case import Check


def _checks(*modules: ModuleType) -> tuple[Check, ...]:
    """Return the checks that modules define, in the order of definition."""
    return tuple(
        check for module in modules for name, check in vars(module).items() if name.startswith("check_")
    )


#: The required behavior of every mechanism, built-in or not.
BEHAVIOR_CHECKS = _checks(structure, numerics, recording, compilation)

#: The rules of this package for the documentation and location of its own mechanisms.
HOUSE_CHECKS = _checks(documentation)

CHECKS = BEHAVIOR_CHECKS + HOUSE_CHECKS


def check_mechanism(spec: Spec, *, house: bool = False) -> None:
    """Run the contract on one mechanism.

    Args:
        spec: The mechanism.
        house: Whether to run `HOUSE_CHECKS`, too.

    Raises:
        ContractFailure: A check fails.
    """
    for check in CHECKS if house else BEHAVIOR_CHECKS:
        check(spec)
