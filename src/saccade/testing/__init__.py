"""The contract that every mechanism keeps, as checks that anybody can run on a `Spec` of their own.

import pytest
from saccade.testing import CHECKS

@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(MY_SPEC)
"""

from saccade.testing.case import ContractFailure
from saccade.testing.contract import CHECKS, check_mechanism

__all__ = ["CHECKS", "ContractFailure", "check_mechanism"]
