"""The contract: all checks. Checks whose failures are easiest to understand come first."""

from __future__ import annotations

from saccade.layers.spec import Spec
from saccade.testing import compilation, documentation, numerics, recording, structure
from saccade.testing.case import Check

#: The required behavior of every mechanism, built-in or not.
BEHAVIOR_CHECKS: tuple[Check, ...] = (
    structure.check_spec,
    structure.check_construction,
    structure.check_shapes,
    structure.check_bad_input,
    structure.check_saving,
    numerics.check_gradients,
    numerics.check_gradcheck,
    numerics.check_dtypes,
    numerics.check_layouts,
    numerics.check_batch_independence,
    numerics.check_meta,
    numerics.check_autocast,
    recording.check_maps,
    recording.check_recording,
    compilation.check_compile,
    compilation.check_recompiles,
    compilation.check_export,
)

#: The rules of this package for the documentation and location of its own mechanisms.
HOUSE_CHECKS: tuple[Check, ...] = (documentation.check_documentation, documentation.check_location)

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
