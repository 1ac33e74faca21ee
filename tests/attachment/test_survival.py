"""An attached model compiles, exports, casts, copies, pickles, wraps and averages like any other."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import saccade as sc
from support.compiler import needs_compiler
from support.networks import Residual

MECHANISMS = ["cbam", "self_attention"]  # one with a gate, one that starts as the identity


def trained(name: str, where: Any = "residual", *, scale: float = 0.3) -> Residual:
    """Return an attached model whose gates and gammas are not 0, as after training."""
    torch.manual_seed(0)
    model, x = Residual(2), torch.randn(2, 3, 8, 8)
    sc.attach(model, name, where=where, example_inputs=x)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith((".gate", ".gamma")):
                p.fill_(scale)
    return model.eval()


def images(batch: int = 2, size: int = 8) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MECHANISMS)
def test_compile_as_one_graph(name: str) -> None:
    model, x = trained(name, ["stage1.0.norm2"]), images()
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # the graph is what may break
    torch.testing.assert_close(compiled(x), model(x))
    model.train()
    compiled(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@needs_compiler
def test_compile_to_machine_code() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten()), images()
    without = model(x)
    sc.attach(model, "se", where=["0"], example_inputs=x, reduction=4, identity=False)
    result = torch.compile(model, fullgraph=True)(x)
    torch.testing.assert_close(result, model(x))
    assert not torch.allclose(result, without, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", MECHANISMS)
def test_export_for_other_batches_and_sizes(name: str) -> None:
    model = trained(name, ["stage1.0.norm2"])
    batch, high = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("high", min=2, max=64)
    shapes = ({0: batch, 2: 2 * high, 3: 2 * high},)
    program = torch.export.export(model, (images(3, 16),), dynamic_shapes=shapes)
    for x in (images(3, 16), images(5, 12)):
        torch.testing.assert_close(program.module()(x), model(x))


def test_trace_by_jit() -> None:
    model, x = trained("cbam"), images()
    traced = torch.jit.trace(model, x, check_trace=False)
    torch.testing.assert_close(traced(x), model(x))


@pytest.mark.parametrize("name", [*MECHANISMS, "se", "multi_head"])
def test_mixed_precision_starts_bit_for_bit_and_keeps_its_dtype(name: str) -> None:
    torch.manual_seed(0)
    model, x = Residual(2).eval(), images()
    dtypes: list[torch.dtype] = []
    model.get_submodule("stage1.0.norm2").register_forward_hook(lambda _, __, y: dtypes.append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        before = model(x)
        sc.attach(model, name, example_inputs=x)
        dtypes.clear()
        after = model(x)
        model.train()(x).square().sum().backward()
    assert torch.equal(before, after)
    assert before.dtype == after.dtype == torch.bfloat16
    assert len(set(dtypes)) == 1
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    half = Residual(2).to(torch.bfloat16)
    sc.attach(half, name, example_inputs=x.to(torch.bfloat16))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half(x.to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", MECHANISMS)
def test_copies_and_pickles(name: str) -> None:
    model, x = trained(name), images()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(twin(x), model(x))
        assert len(sc.detach(twin)) == 4
        assert not torch.equal(twin(x), model(x))


@pytest.mark.process
def test_where_saccade_is_missing_a_pickle_says_so_in_one_sentence(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3))
    sc.attach(model, "cbam", where=["0"], example_inputs=torch.rand(1, 3, 8, 8))
    torch.save(model, tmp_path / "model.pt")
    # Without site (-S), the source tree of an editable installation is not on the path.
    code = (
        f"import sys; sys.path.append({str(Path(torch.__file__).parents[1])!r}); import torch\n"
        f"torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert run.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'saccade'"


def test_a_running_average_follows_the_attention() -> None:
    model, x = trained("cbam"), images()
    average = AveragedModel(model, avg_fn=lambda old, new, _: 0.5 * (old + new))
    average.update_parameters(model)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith(".gate"):
                p.fill_(0.5)
    average.update_parameters(model)
    gates = [p.item() for key, p in average.named_parameters() if key.endswith(".gate")]
    assert gates == [pytest.approx(0.4)] * 4
    assert not torch.equal(average(x), model(x))
    assert len(sc.detach(average)) == 4


def test_moves_and_casts() -> None:
    model = trained("cbam")
    assert model.double()(images().double()).dtype == torch.float64
    assert model.to("meta")(images().to("meta").double()).shape == (2, 5)


def test_data_parallel_wraps_and_its_replicas_attend() -> None:
    model, x = trained("cbam").float(), images()
    wrapped = nn.DataParallel(model)
    assert torch.equal(wrapped(x), model(x))
    host = model.get_submodule("stage1.0.norm2")
    copied = host._replicate_for_data_parallel()  # hooks shared, children not
    features = torch.randn(2, 32, 8, 8)
    copied._parameters, copied._modules = dict(host._parameters), {"attention": nn.Identity()}
    assert torch.equal(copied(features), nn.BatchNorm2d.forward(host, features))  # type: ignore[arg-type]


def test_a_network_within_another() -> None:
    model, x = trained("cbam"), images()
    outer = nn.Sequential(model, nn.Linear(5, 2))
    assert any(key.startswith("0.stage1.0.norm2.attention.") for key in outer.state_dict())
    with sc.record(outer) as maps:
        outer(x)
    assert "0.stage2.1.norm2.attention.mechanism.spatial" in maps


def test_frozen_backbone() -> None:
    torch.manual_seed(0)
    model, x = Residual(2), images()
    model.requires_grad_(False)
    sc.attach(model, "cbam", example_inputs=x)
    trainable = {key for key, p in model.named_parameters() if p.requires_grad}
    assert trainable == {key for key, _ in model.named_parameters() if ".attention." in key}
    model(x).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_an_example_made_in_inference_mode() -> None:
    model = Residual(2)
    with torch.inference_mode():
        x = torch.randn(2, 3, 8, 8)
        sc.attach(model, "cbam", example_inputs=x)
    model(images()).square().sum().backward()  # an inference tensor could not be trained
    assert not any(p.is_inference() for p in model.parameters())


def _worker(_: int, rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)  # different weights: DDP must send those of rank 0
    model = Residual(2, width=16)
    sc.attach(model, "cbam", example_inputs=torch.randn(2, 3, 8, 8), reduction=4)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
    torch.manual_seed(10 + rank)
    for _ in range(3):
        optimizer.zero_grad()
        parallel(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    try:
        sc.attach(parallel, "se", example_inputs=torch.randn(2, 3, 8, 8))
    except sc.BadOption as error:
        Path(folder, f"{rank}.txt").write_text(f"{error.owner}: {error.option}={error.value!r}")
    dist.destroy_process_group()


def test_two_processes_train_the_same_attention(tmp_path: Path) -> None:
    processes: Any = mp.spawn(  # type: ignore[no-untyped-call,attr-defined]
        _worker, (1, str(tmp_path)), nprocs=1, join=False, daemon=True
    )
    _worker(0, 0, str(tmp_path))
    processes.join()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    parameters = {key: value for key, value in first.items() if "running" not in key}
    assert all(torch.equal(value, second[key]) for key, value in parameters.items())
    gates = [value for key, value in first.items() if key.endswith(".gate")]
    assert len(gates) == 4
    assert all(value.abs() > 0 for value in gates)
    assert (tmp_path / "0.txt").read_text() == "attach: model='DistributedDataParallel'"
