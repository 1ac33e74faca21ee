"""The contract: all checks, in the order in which a failure is easiest to understand."""

from __future__ import annotations

from saccade.layers.spec import Spec
from saccade.testing import compilation, documentation, numerics, recording, structure
from saccade.testing.case import Check

#: The behavior that any mechanism must keep, whoever wrote it.
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

#: The rules of this package for the documentation of its own mechanisms.
HOUSE_CHECKS: tuple[Check, ...] = (documentation.check_documentation, documentation.check_location)

CHECKS = BEHAVIOR_CHECKS + HOUSE_CHECKS


def check_mechanism(spec: Spec, *, house: bool = False) -> None:
    """Run the contract on one mechanism.

    Args:
        spec: The mechanism.
        house: Whether to check this package's rules of documentation, too.

    Raises:
        ContractFailure: The first check that fails.
    """
    for check in CHECKS if house else BEHAVIOR_CHECKS:
        check(spec)
