"""`raises`: assert an error by its fields; its sentence is kept in one snapshot file.

    with raises(BadOption, option="reduction", value=0):
        sc.create("se", 16, reduction=0)

After a sentence was improved: `SACCADE_UPDATE_SNAPSHOTS=1 pytest`, then review the diff of the file.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pytest

from saccade.errors import SaccadeError

SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "errors.json"
_calls: Counter[str] = Counter()


@contextmanager
def raises(error: type[SaccadeError], **fields: Any) -> Iterator[pytest.ExceptionInfo[SaccadeError]]:
    """Expect an error with these fields, and with the sentence that the snapshot holds for this call."""
    with pytest.raises(error) as caught:
        yield caught
    found = {name: getattr(caught.value, name) for name in fields}
    assert found == fields, str(caught.value)
    check_sentence(str(caught.value))


def check_sentence(sentence: str) -> None:
    """Compare a sentence with the snapshot; what depends on the machine is left out."""
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
    key = f"{test} #{_calls[test]}"
    _calls[test] += 1
    sentence = re.sub(r"(/[\w.\-]+)*/pytest-of-\w+/pytest-\d+(/popen-gw\d+)?/[\w.\-]+", "TMP", sentence)
    sentence = re.sub(r" at 0x[0-9a-f]+", "", sentence)
    sentence = re.sub(r"this machine has \d+ GB", "this machine has N GB", sentence)
    if os.environ.get("SACCADE_UPDATE_SNAPSHOTS"):
        with filelock.FileLock(f"{SNAPSHOT}.lock"):
            known = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
            known[key] = sentence
            SNAPSHOT.parent.mkdir(exist_ok=True)
            SNAPSHOT.write_text(json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n")
        return
    known = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    assert sentence == known.get(key), f"{key}: to accept this sentence, see {Path(__file__).name}"
