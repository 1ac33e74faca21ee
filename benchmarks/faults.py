"""Interrupt, starve and feed saccade in many ways, and count how often it recovers.

    python benchmarks/faults.py [--rounds 20] [--only killed-comparison fuzzed-files ...] [--seed 0]

A round counts as passed if the same command, run again, ends with the results of an uninterrupted run, digit
for digit; or, for what is read, if a damaged file is accepted or refused with one sentence, and starts no
program and no connection. Writes benchmarks/results/faults.json. It took 100
minutes on two cores that did other work, too.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.errors import SaccadeError
from saccade.files import write_json
from saccade.results import hardware_info

RESULT = Path(__file__).parent / "results" / "faults.json"
TASK = "white-patch:size=32,patch=[6,12],train=100,validation=20,test=20"
SETTINGS = ["--set", "epochs=2", "--set", "batch_size=10", "--logger", "none"]
COMPARE = ["compare", TASK, "-a", "none", "-a", "se", "--seeds", "2", *SETTINGS]
TRAIN = ["train", TASK, "-a", "se", "--set", "epochs=6", "--set", "batch_size=10", "--logger", "none"]
SEARCH = ["search", TASK, "-a", "se", "-a", "eca", "--budget", "8runs", "--finalists", "1", "--seeds", "2"]
LONGEST = 300.0  # seconds of any command; a longer one hangs

Rng = random.Random


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        text: What happens, for the table.
        run: Runs a number of rounds in a folder and returns how many passed.
        rounds: Rounds for each one that the user asks for.
    """

    text: str
    run: Callable[[Path, int, Rng], int]
    rounds: float = 1


def start(arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    command = [sys.executable, "-m", "saccade", *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes)


def finish(arguments: Sequence[str]) -> tuple[int, str, float]:
    """Run a command; return its exit code, standard error, and duration in seconds."""
    begin = time.monotonic()
    process = start(arguments)
    try:
        _, said = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, said, time.monotonic() - begin


def outcome(folder: Path) -> Any:
    """Return what has to be equal: errors and curves of all runs, or the leaderboard of a search."""
    if (folder / "search.json").exists():
        found = json.loads((folder / "search.json").read_text())
        return [(row["attention"], row["error"]["mean"]) for row in found["leaderboard"]]
    if (folder / "results.json").exists():
        runs = json.loads((folder / "results.json").read_text())["runs"]
        return [(run["attention"], run["seed"], run["error"], run["curves"]) for run in runs]
    run = json.loads((folder / "result.json").read_text())
    return [(run["attention"], run["seed"], run["error"], run["curves"])]


def reference(arguments: Sequence[str], root: Path) -> tuple[Any, float]:
    """Return the outcome of an uninterrupted command, and its duration in seconds."""
    code, said, seconds = finish([*arguments, "--out", str(root / "whole")])
    assert code == 0, said
    return outcome(root / "whole"), seconds


def passes(number: int, passed: bool, facts: str) -> bool:
    """Return whether a round passed; print what happened if it did not."""
    if not passed:
        print(f"round {number}: {facts}", file=sys.stderr, flush=True)
    return passed


def killed(arguments: list[str], root: Path, rounds: int, rng: Rng) -> int:
    """Kill all processes of a command at a random moment, and run it again."""
    expected, seconds = reference(arguments, root)
    again = [*arguments, "--resume"] if arguments[0] == "train" else arguments
    passed = 0
    for number in range(rounds):
        out = root / str(number)
        process = start([*arguments, "--out", str(out)])
        time.sleep(rng.uniform(0.2, 1) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        resumed = again if (out / "recipe.yaml").exists() or arguments[0] != "train" else arguments
        code, said, _ = finish([*resumed, "--out", str(out)])
        passed += passes(number, code == 0 and outcome(out) == expected, f"exit code {code}: {said}")
    return passed


def full_disk(root: Path, rounds: int, rng: Rng) -> int:
    """Let the disk fill up at a random moment, and run the command again on a larger one."""
    expected, _ = reference(COMPARE, root)
    used = sum(file.stat().st_size for file in (root / "whole").rglob("*") if file.is_file())
    passed = 0
    for number in range(rounds):
        disk = root / f"disk{number}"
        disk.mkdir()
        size = int(rng.uniform(0.05, 0.9) * used)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
        try:
            code, said, _ = finish([*COMPARE, "--out", str(disk / "out")])
            is_refused = code in (1, 2) and len(said.strip().splitlines()) == 1 and "Traceback" not in said
            subprocess.run(["mount", "-o", f"remount,size={20 * used}", str(disk)], check=True)
            first, (code, _, _) = said, finish([*COMPARE, "--out", str(disk / "out")])
            is_same = code == 0 and outcome(disk / "out") == expected
            passed += passes(number, is_refused and is_same, f"exit code {code} after: {first}")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return passed


def stopped(root: Path, rounds: int, rng: Rng) -> int:
    """Stop a run by Ctrl-C in a terminal, or by SIGTERM, at a random moment, and resume it."""
    expected, _ = reference(TRAIN, root)
    begin, end = ((root / "whole" / name).stat().st_mtime for name in ("run.json", "result.json"))
    passed = 0
    for number in range(rounds):
        out, is_key = root / str(number), number % 2 == 0
        arguments = [*TRAIN, "--out", str(out)]
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "saccade", *arguments])
        while not (out / "run.json").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.9) * (end - begin))
        if is_key:
            os.write(terminal, b"\x03")
        else:
            os.kill(pid, signal.SIGTERM)
        code = _wait(pid, terminal)
        is_code = (out / "result.json").exists() or code == (130 if is_key else 143)  # or it had ended
        resume = ["--resume"] if (out / "recipe.yaml").exists() else []
        last, said, _ = finish([*arguments, *resume])
        is_same = last == 0 and outcome(out) == expected
        passed += passes(number, is_code and is_same, f"exit code {code}, then {last}: {said}")
    return passed


def _wait(pid: int, terminal: int) -> int:
    """Read a terminal until its process ends; return the exit code."""
    while True:
        try:
            if not os.read(terminal, 65536):
                break
        except OSError:  # how Linux reports that the other side is closed
            break
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lost_worker(arguments: list[str], pattern: str, root: Path, rounds: int, rng: Rng) -> int:
    """Kill one worker of a distributed command; run it again if it ends with an error."""
    expected, seconds = reference(arguments, root)
    passed = 0
    for number in range(rounds):
        out = root / str(number)
        process = start([*arguments, "--out", str(out)])
        time.sleep(rng.uniform(0.5, 0.9) * seconds)
        workers = [pid for pid in _group(process.pid, pattern) if pid != process.pid]
        for pid in workers[:1]:
            os.kill(pid, signal.SIGKILL)
        _, said = process.communicate(timeout=LONGEST)
        code = process.returncode
        if code != 0:
            resume = ["--resume"] if arguments[0] == "train" else []
            code, said, _ = finish([*arguments, *resume, "--out", str(out)])
        passed += passes(number, code == 0 and outcome(out) == expected, f"exit code {code}: {said}")
    return passed


def _group(leader: int, pattern: str) -> list[int]:
    """Return the processes below a process whose command line or title has a pattern."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                titles[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    below = {leader}
    for _ in range(6):
        below |= {pid for pid, parent in parents.items() if parent in below}
    return sorted(pid for pid in below if pattern in titles.get(pid, ""))


def clock(root: Path, rounds: int, rng: Rng) -> int:
    """Set the clock back by up to a year in the middle of a comparison."""
    expected, seconds = reference(COMPARE, root)
    code = (
        "import sys, time; real, first = time.time, time.time(); "
        "time.time = lambda: real() - ({back} if real() - first > {after} else 0); "
        "sys.argv[0] = 'saccade'; from saccade.cli import run_and_exit; run_and_exit()"
    )
    passed = 0
    for number in range(rounds):
        out = root / str(number)
        text = code.format(back=rng.uniform(60, 3e7), after=rng.uniform(0.3, 0.9) * seconds)
        command = [sys.executable, "-c", text, *COMPARE, "--out", str(out)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
        is_same = run.returncode == 0 and outcome(out) == expected
        passed += passes(number, is_same, f"exit code {run.returncode}: {run.stderr}")
    return passed


def report(root: Path, rounds: int, rng: Rng) -> int:
    """Kill `saccade report` at a random moment: the page of before, or a complete new one, remains."""
    reference(COMPARE, root)
    page = root / "whole" / "report.html"
    _, _, seconds = finish(["report", str(root / "whole")])
    passed = 0
    for _ in range(rounds):
        process = start(["report", str(root / "whole")])
        time.sleep(rng.uniform(0.4, 1) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        passed += page.read_text().rstrip().endswith("</html>")
    return passed


def fuzzed(root: Path, rounds: int, rng: Rng) -> int:
    """Change, cut and repeat bytes of images, recipes, results, galleries and checkpoints, and read them."""
    from saccade.config import Recipe
    from saccade.data import read_image
    from saccade.results import read_gallery, read_run_result
    from saccade.training import restore

    code, said, _ = finish([*TRAIN, "--out", str(root / "run")])
    assert code == 0, said
    Path(root / "image.png").write_bytes(_image("PNG"))
    Path(root / "image.jpg").write_bytes(_image("JPEG"))
    signal.signal(signal.SIGALRM, _hang)
    events: list[str] = []
    dangerous = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "socket.connect", "pty.spawn")
    sys.addaudithook(lambda event, _: events.append(event) if event.startswith(dangerous) else None)
    run = root / "run"
    targets: list[tuple[Path, Callable[[], object]]] = [
        (root / "image.png", lambda: read_image(root / "image.png")),
        (root / "image.jpg", lambda: read_image(root / "image.jpg")),
        (run / "recipe.yaml", lambda: Recipe.read(run / "recipe.yaml")),
        (run / "result.json", lambda: read_run_result(run)),
        (run / "gallery.npz", lambda: read_gallery(run)),
        (run / "checkpoints" / "last.ckpt", lambda: restore(run / "checkpoints" / "last.ckpt")),
    ]
    passed = 0
    for number in range(rounds):
        path, read = targets[number % len(targets)]
        whole = path.read_bytes()
        path.write_bytes(_damage(whole, rng))
        events.clear()
        signal.alarm(30)
        try:
            read()
        except SaccadeError as error:
            passed += "\n" not in str(error) and not events
        except Exception as error:  # a crash: it counts as failed, and the next round goes on
            print(f"{path.name}: {type(error).__name__}: {error}", file=sys.stderr)
        else:
            passed += not events
        finally:
            signal.alarm(0)
            path.write_bytes(whole)
    return passed


def _hang(*_: object) -> None:
    raise TimeoutError("no end after 30 seconds")


def _image(kind: str) -> bytes:
    import io

    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(256, size=(40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _damage(whole: bytes, rng: Rng) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + rng.randrange(1, 64)]
            case _:
                data[at:at] = data[at : at + rng.randrange(1, 64)]
        if not data:
            return b""
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.2 else data)


def memory(_root: Path, rounds: int, _rng: Rng) -> int:
    """Attach, record, look and detach; memory of the later half of the rounds grows by less than 8 MB."""
    import torch

    import saccade as sc
    from saccade.models import SmallCNN

    model, images = SmallCNN(2), torch.rand(2, 3, 32, 32)
    half = 0.0
    for number in range(rounds):
        sc.attach(model, "cbam", where=["stages.1"], example_inputs=images, reduction=4)
        with sc.record(model) as maps:
            model(images)
        sc.look(model, images)
        sc.detach(model)
        del maps
        if number == rounds // 2:
            half = _resident()
    return rounds if _resident() - half < 8 else 0


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def of(arguments: list[str]) -> Callable[[Path, int, Rng], int]:
    return lambda root, rounds, rng: killed(arguments, root, rounds, rng)


RAY = [*COMPARE, "--executor", "ray"]
DDP = [*TRAIN, "--devices", "2"]
FAULTS: dict[str, Fault] = {
    "killed-comparison": Fault("`kill -9` of a comparison at a random moment", of(COMPARE)),
    "killed-processes": Fault(
        "`kill -9` of a comparison with two processes", of([*COMPARE, "--executor", "processes"])
    ),
    "killed-search": Fault("`kill -9` of a search", of(SEARCH)),
    "killed-run": Fault("`kill -9` of a run, then `--resume`", of(TRAIN)),
    "stopped-run": Fault("Ctrl-C in a terminal, or SIGTERM, in an epoch; then `--resume`", stopped),
    "full-disk": Fault("a disk that fills up at a random moment, then a larger one", full_disk, 0.5),
    "lost-ray-worker": Fault(
        "`kill -9` of a worker of Ray",
        lambda root, rounds, rng: lost_worker(RAY, "ray::", root, rounds, rng),
        0.25,
    ),
    "lost-ddp-process": Fault(
        "`kill -9` of one of two processes that share a batch",
        lambda root, rounds, rng: lost_worker(DDP, "saccade", root, rounds, rng),
        0.25,
    ),
    "clock": Fault("the clock is set back in a comparison", clock, 0.25),
    "killed-report": Fault("`kill -9` while a report is written", report),
    "fuzzed-files": Fault("damaged images, recipes, results, galleries and checkpoints", fuzzed, 50),
    "memory": Fault("rounds of attach, record, look and detach in one process", memory, 50),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else {}
    for name in arguments.only:
        fault = FAULTS[name]
        rounds = max(1, round(fault.rounds * arguments.rounds))
        root = Path(tempfile.mkdtemp(prefix="saccade-faults-"))
        begin = time.monotonic()
        try:
            passed = fault.run(root, rounds, Rng(f"{arguments.seed} {name}"))
        finally:
            shutil.rmtree(root, ignore_errors=True)
        seconds = round(time.monotonic() - begin)
        rows[name] = {"text": fault.text, "rounds": rounds, "passed": passed, "seconds": seconds}
        print(f"{name}: {passed} of {rounds} in {seconds} s", flush=True)
        result = {"command": "python benchmarks/faults.py", "hardware": hardware_info(), "rows": rows}
        write_json(arguments.out, result)
    raise SystemExit(any(row["passed"] < row["rounds"] for row in rows.values()))


if __name__ == "__main__":
    main()
