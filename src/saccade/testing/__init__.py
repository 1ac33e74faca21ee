"""The contract that every mechanism keeps, as two suites of checks that run on any `Spec`.

`BEHAVIOR_CHECKS` is what `create`, `attach`, `record` and training rely on; a mechanism of another package
keeps it. `HOUSE_CHECKS` are the rules of documentation for the mechanisms of this package.

    import pytest
    from saccade.testing import BEHAVIOR_CHECKS

    @pytest.mark.parametrize("check", BEHAVIOR_CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(MY_SPEC)
"""

from saccade.testing.case import ContractFailure
from saccade.testing.contract import BEHAVIOR_CHECKS, CHECKS, HOUSE_CHECKS, check_mechanism

__all__ = ["BEHAVIOR_CHECKS", "CHECKS", "HOUSE_CHECKS", "ContractFailure", "check_mechanism"]
