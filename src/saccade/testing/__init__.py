"""The contract of mechanisms: two suites of checks that run on any `Spec`.

`BEHAVIOR_CHECKS` is what `create`, `attach`, `record` and training rely on, also for mechanisms of other
packages. `HOUSE_CHECKS` holds the documentation rules for the mechanisms of this package.

    import pytest
    from saccade.testing import BEHAVIOR_CHECKS

    @pytest.mark.parametrize("check", BEHAVIOR_CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(MY_SPEC)
"""

from saccade.testing.case import ContractFailure
from saccade.testing.contract import BEHAVIOR_CHECKS, CHECKS, HOUSE_CHECKS, check_mechanism

__all__ = ["BEHAVIOR_CHECKS", "CHECKS", "HOUSE_CHECKS", "ContractFailure", "check_mechanism"]
