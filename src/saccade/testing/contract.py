"""The contract: all checks, in the order in which a failure is easiest to understand."""

from __future__ import annotations

from saccade.layers.spec import Spec
from saccade.testing import compilation, numerics, recording, structure
from saccade.testing.case import Check

CHECKS: tuple[Check, ...] = (
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


def check_mechanism(spec: Spec) -> None:
    """Run every check on one mechanism. Raises `ContractFailure` at the first broken promise."""
    for check in CHECKS:
        check(spec)
