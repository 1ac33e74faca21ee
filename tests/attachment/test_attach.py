"""`attach` and `detach`: the output at initialization, training, and the restored model."""

from __future__ import annotations

import copy
import pickle
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saccade as sc
from saccade.attachment import Attached, hooks
from support.errors import raises
from support.networks import Block, Named, Residual, UNet

DROP_INS = [name for name in sc.mechanisms() if sc.spec(name).drop_in]
IMAGES = {1: (3, 24), 2: (3, 12, 10), 3: (3, 4, 8, 8)}


def residual(dims: int = 2, *, seed: int = 0) -> Residual:
    torch.manual_seed(seed)
    return Residual(dims)


def images(dims: int = 2, batch: int = 4) -> Tensor:
    return torch.randn(batch, *IMAGES[dims], generator=torch.Generator().manual_seed(1))


def run(model: nn.Module, x: Tensor, *, training: bool) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Return the output and the gradients of a loss, with the same dropout masks at each call."""
    model.train(training)
    torch.manual_seed(3)
    model.zero_grad()
    y: Tensor = model(x)
    y.square().sum().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters()}


def fingerprint(model: nn.Module) -> Iterator[tuple[Any, ...]]:
    """Yield everything that identifies a model: modules, classes, attributes, hooks, values and flags."""
    yield "random", torch.get_rng_state().tolist()
    for path, module in model.named_modules(remove_duplicate=False):
        yield path, type(module), id(module), module.training, list(vars(module)), list(module._modules)
        for name, value in vars(module).items():
            if name.endswith("_hooks") or name.startswith("_forward_"):
                yield path, name, list(value.items())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield name, id(tensor), tensor.dtype, tensor.requires_grad, tensor.detach().flatten().tolist()


# -------------------------------------------------------------------------------------- the same at the start


@pytest.mark.parametrize("name", DROP_INS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_output_and_gradients_are_bit_for_bit_those_without_attention(name: str, training: bool) -> None:
    model, x = residual(), images()[..., :8, :8]  # powers of 2, at which a spatial transformer is exact
    before, gradients = run(model, x, training=training)
    model = residual()
    plan = sc.attach(model, name, example_inputs=x, **sc.spec(name).examples[0].options)
    after, with_attention = run(model, x, training=training)
    assert len(plan) == 4
    assert torch.equal(before, after)
    for key, gradient in gradients.items():
        other = with_attention[key]
        assert gradient is not None
        assert other is not None
        assert torch.equal(gradient, other), key


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "name", ["se", "eca", "channel_gate", "non_local", "cbam", "bam", "sk", "spatial_gate", "self_attention"]
)
@pytest.mark.parametrize("where", ["residual", "stage", "stem", "head"])
def test_networks_of_any_dimension(name: str, dims: int, where: Any) -> None:
    model, x = residual(dims), images(dims)
    before = run(model, x, training=True)[0]
    model = residual(dims)
    plan = sc.attach(model, name, where=where, example_inputs=x)
    assert {len(site.shape) for site in plan} == {dims + 1}
    assert torch.equal(run(model, x, training=True)[0], before)


def check_volumes(model: nn.Module, x: Tensor) -> None:
    """Attach cbam to a network of volumes, train it, record it and detach it."""
    keys, before = list(model.state_dict()), model.eval()(x)
    plan = sc.attach(model, "cbam", example_inputs=x, reduction=4)
    assert {len(site.shape) for site in plan} == {4}
    assert torch.equal(model(x), before)
    attached = [part for part in model.modules() if isinstance(part, Attached)]
    for part in attached:
        assert part.gate is not None
        nn.init.constant_(part.gate, 0.5)
    model(x).square().sum().backward()
    for part in attached:
        kernel = part.mechanism.get_parameter("spatial.conv.weight")
        assert kernel.shape == (1, 2, 7, 7, 7)
        assert kernel.grad is not None
        assert kernel.grad.any()
    with sc.record(model) as maps:
        model(x)
    assert maps[f"{plan[0].path}.attention.mechanism.spatial"].saliency().shape[1:] == plan[0].shape[1:]
    sc.detach(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), before)


def test_cbam_in_a_network_of_volumes() -> None:
    check_volumes(residual(3), torch.randn(2, 3, 4, 8, 6))


def test_cbam_in_a_network_of_monai() -> None:
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")
    check_volumes(nets.SegResNet(3, in_channels=1, out_channels=2), torch.randn(1, 1, 16, 16, 16))


def test_a_sequence_mechanism_takes_the_features_of_a_sequence_network() -> None:
    model, x = residual(1), images(1)
    before = run(model, x, training=False)[0]
    sc.attach(model, "multi_head", example_inputs=x, heads=4)
    assert torch.equal(run(model, x, training=False)[0], before)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Attached):
                assert part.gate is not None
                part.gate.fill_(0.5)
    y, gradients = run(model, x, training=True)
    assert not torch.equal(y, before)
    assert all(g is not None and g.isfinite().all() for g in gradients.values())


def test_a_spatial_transformer_that_rounds_goes_in_without_a_gate() -> None:
    model, x = residual(), images()
    before = run(model, x, training=False)[0]
    plan = sc.attach(model, "spatial_transformer", where="stem", example_inputs=x)
    assert [site.start for site in plan] == ["near identity"]
    assert not any(key.endswith("gate") for key in model.state_dict())
    after, gradients = run(model, x, training=False)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    head = gradients["stem.2.attention.mechanism.head.weight"]
    assert head is not None
    assert head.abs().max() > 1e-3


def test_dtype_and_memory_format_are_those_of_the_features() -> None:
    for name in ("cbam", "self_attention", "multi_head"):
        for identity in (True, False):
            model = residual().double().to(memory_format=torch.channels_last)
            x = images().double().to(memory_format=torch.channels_last)
            sc.attach(model, name, example_inputs=x, identity=identity)
            assert {p.dtype for p in model.parameters()} == {torch.float64}
            tensors: list[Tensor] = []
            model.get_submodule("stage1.0.norm2").register_forward_hook(
                lambda _, inputs, output, tensors=tensors: tensors.extend([inputs[0], output])
            )
            model(x)
            assert tensors[1].dtype == torch.float64
            assert tensors[1].stride() == tensors[0].stride(), (name, identity)
            assert tensors[1].is_contiguous(memory_format=torch.channels_last)


def test_the_memory_format_is_kept_of_a_mechanism_that_changes_it() -> None:
    class Contiguous(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.contiguous() * 2

    x = torch.randn(2, 8, 5, 4).to(memory_format=torch.channels_last)
    for gate in (True, False):
        y = Attached(Contiguous(), gate=gate)(x)
        assert y.stride() == x.stride()
        torch.testing.assert_close(y, x if gate else 2 * x)


def test_what_it_computes() -> None:
    model, x = residual().eval(), images()
    sc.attach(model, "se", where=["stage1.0.norm2"], example_inputs=x)
    inserted = model.get_submodule("stage1.0.norm2.attention")
    assert isinstance(inserted, Attached)
    features = torch.randn(2, 32, 5, 4)
    with torch.no_grad():
        assert inserted.gate is not None
        inserted.gate.fill_(0.3)
        expected = features + 0.3 * (inserted.mechanism(features) - features)
        torch.testing.assert_close(inserted(features), expected)
        tokens = torch.randn(2, 7, 32)
        moved = Attached(inserted.mechanism, gate=False, move_last_axis=True)
        torch.testing.assert_close(moved(tokens), inserted.mechanism(tokens.transpose(1, 2)).transpose(1, 2))


def test_the_papers_start_is_the_mechanism_alone() -> None:
    model, x = residual().eval(), images()
    before = model(x)
    plan = sc.attach(model, "cbam", example_inputs=x, identity=False)
    assert {site.start for site in plan} == {"paper"}
    assert not any("gate" in key for key in model.state_dict())
    assert not torch.allclose(model(x), before)


# ------------------------------------------------------------------------------------------ and yet it trains


@pytest.mark.parametrize("name", DROP_INS)
def test_every_parameter_of_the_attention_trains_by_the_second_step(name: str) -> None:
    model, x = residual(), images()
    reduces = any(option.name == "reduction" for option in sc.spec(name).options)
    options: dict[str, Any] = {**sc.spec(name).examples[0].options}
    options |= {"reduction": 2} if reduces else {}  # a ReLU may block both of two hidden units
    plan = sc.attach(model, name, where="stage", example_inputs=x, **options)
    added = {key: p for key, p in model.named_parameters() if ".attention." in key}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    reached: set[str] = set()
    starts_at_zero = name in ("shuffle", "srm", "dnl")  # factors, by which further ones act
    for step in range(3 if starts_at_zero or {s.start for s in plan} == {"identity"} else 2):
        optimizer.zero_grad()
        model.train()
        torch.manual_seed(step)
        F.cross_entropy(model(x), torch.arange(len(x)) % 5).backward()
        reached_now = {key for key, p in added.items() if p.grad is not None and p.grad.abs().max() > 0}
        assert reached_now, f"step {step}: no parameter of the attention is reached"
        reached |= reached_now
        optimizer.step()
    # A softmax does not change when one number is added to all logits, nor a sum when a norm follows.
    missed = {key for key in added.keys() - reached if not key.endswith("bias")}
    assert not missed


@pytest.mark.parametrize("name", ["se", "cbam", "multi_head", "self_attention", "non_local"])
def test_attention_alone_learns_while_the_network_is_frozen(name: str) -> None:
    model, x = residual().eval(), images(batch=12)
    target = model(x).detach().roll(1, 0)  # the output for another image
    model.requires_grad_(False)
    sc.attach(model, name, example_inputs=x)
    added = [p for p in model.parameters() if p.requires_grad]
    assert len(added) == sum(".attention." in key for key, _ in model.named_parameters())
    optimizer = torch.optim.Adam(added, 0.02)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(x) - target).square().sum() / target.var()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0], losses


def test_two_factors_of_zero_never_train_so_an_identity_gets_none() -> None:
    stalled = Attached(sc.create("self_attention", 16), gate=True)
    stalled(torch.randn(2, 16, 5, 5)).square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in stalled.parameters())

    cases: list[tuple[str, dict[str, Any]]] = [("self_attention", {}), ("non_local", {})]
    for name, options in (*cases, ("non_local", {"batch_norm": False})):
        model, x = residual(), images()
        plan = sc.attach(model, name, example_inputs=x, **options)
        assert {site.start for site in plan} == {"identity"}
        gradients = run(model, x, training=True)[1]
        moving = [g for key, g in gradients.items() if ".attention." in key and g is not None and g.any()]
        assert moving
    model = residual()
    assert {s.start for s in sc.attach(model, "multi_head", example_inputs=images(), residual=True)} == {
        "zero gate"
    }


# ------------------------------------------------------------------------------------------- keys and weights


def test_keys_of_the_network_stay_and_the_others_are_the_attentions() -> None:
    model, x = residual(), images()
    keys = list(model.state_dict())
    pretrained = residual(seed=5).state_dict()
    plan = sc.attach(model, "cbam", example_inputs=x)
    assert [key for key in model.state_dict() if ".attention." not in key] == keys
    missing, unexpected = model.load_state_dict(pretrained, strict=False)
    assert not unexpected
    added = {key for key in model.state_dict() if ".attention." in key}
    assert set(missing) <= added
    assert {key.rpartition(".")[2] for key in added - set(missing)} <= {
        "num_batches_tracked"
    }  # torch forgives
    assert {key.split(".attention.")[0] for key in missing} == {site.path for site in plan}
    loaded = residual(seed=5).eval()
    assert torch.equal(model.eval()(x), loaded(x))


def test_checkpoints_load_into_a_newly_attached_network() -> None:
    model, x = residual(), images()
    sc.attach(model, "cbam", example_inputs=x)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    other = residual(seed=7)
    sc.attach(other, "cbam", example_inputs=x)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))


def test_parameters_are_counted_with_the_gate() -> None:
    model, x = residual(), images()
    before = sum(p.numel() for p in model.parameters())
    plan = sc.attach(model, "cbam", example_inputs=x)
    assert sum(site.parameters or 0 for site in plan) == sum(p.numel() for p in model.parameters()) - before


# --------------------------------------------------------------------------------------------------- no trace


def operations(model: nn.Module) -> list[str]:
    """The operations of a pickle. Their arguments contain random weights and addresses."""
    return [operation.name for operation, _, _ in pickletools.genops(pickle.dumps(model))]


@pytest.mark.parametrize(
    ("name", "where", "options"),
    [
        ("cbam", "residual", {}),
        ("self_attention", "stage", {}),
        ("spatial_transformer", "input", {}),
        ("se", ["stem"], {"reduction": 4}),
        ("bam", lambda site: site.channels > 32, {}),
    ],
)
def test_detach_restores_everything(name: str, where: Any, options: dict[str, Any]) -> None:
    model, x = residual(), images()
    kept: list[str] = []
    model.get_submodule("stage1.0.norm2").register_forward_hook(lambda *_: kept.append("a hook of the user"))
    pickled = operations(residual())
    before = list(fingerprint(model))
    plan = sc.attach(model, name, where=where, example_inputs=x, **options)
    random_state = before[0]
    assert next(fingerprint(model)) == random_state  # also after attaching
    assert list(fingerprint(model)) != before
    paths = sc.detach(model)
    assert paths == [f"{path}.attention" for path in dict.fromkeys(s.path for s in plan)] or len(plan) == len(
        paths
    )
    assert list(fingerprint(model)) == before
    assert operations(residual()) == pickled  # the classes are as before
    kept.clear()
    model(x)
    assert kept == ["a hook of the user"]
    assert sc.detach(model) == []


def test_a_pickle_after_detaching_is_the_pickle_before() -> None:
    model, x = residual(), images()
    before = pickle.dumps(model)
    sc.attach(model, "cbam", example_inputs=x)
    attached_pickle = pickle.dumps(model)
    assert attached_pickle != before
    sc.detach(model)
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("training", [False, True])
def test_flags_are_the_hosts(training: bool) -> None:
    model, x = residual().train(training), images()
    sc.attach(model, "cbam", example_inputs=x)
    assert {part.training for part in model.modules()} == {training}


@pytest.mark.parametrize("fails_at", [1, 3, 4])
def test_a_failure_halfway_leaves_no_trace(fails_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = residual(), images()
    before = list(fingerprint(model))
    count, original = 0, hooks.insert

    def failing(*arguments: Any) -> str:
        nonlocal count
        count += 1
        if count == fails_at:
            raise OSError("the disk is full")
        return original(*arguments)

    monkeypatch.setattr("saccade.attachment.insertion.insert", failing)
    with pytest.raises(OSError, match="the disk is full"):
        sc.attach(model, "cbam", example_inputs=x)
    assert count == fails_at
    assert list(fingerprint(model)) == before


def test_a_failure_while_a_hook_is_registered_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = residual(), images()
    sc.attach(model, "se", where=["stage1.0.norm2"], example_inputs=x)
    before, output = list(fingerprint(model)), model.eval()(x)
    model.train()
    original: Callable[..., Any] = nn.Module.register_forward_hook

    def failing(module: nn.Module, hook: Any, **options: Any) -> Any:
        if hook is hooks.attend_to_output and module is model.get_submodule("stage2.0.norm2"):
            raise MemoryError
        return original(module, hook, **options)

    monkeypatch.setattr(nn.Module, "register_forward_hook", failing)
    with pytest.raises(MemoryError):
        sc.attach(model, "cbam", example_inputs=x, allow_multiple=True)
    assert list(fingerprint(model)) == before
    assert torch.equal(model.eval()(x), output)


def test_a_plan_alone_changes_nothing() -> None:
    model, x = residual(), images()
    before = list(fingerprint(model))
    plan = sc.attach(model, "cbam", example_inputs=x, dry_run=True)
    assert list(fingerprint(model)) == before
    assert plan == sc.attach(model, "cbam", example_inputs=x)
    assert [site.path for site in plan] == [f"stage{s}.{b}.norm2" for s in (1, 2) for b in (0, 1)]


# --------------------------------------------------------------------------------------------- and more of it


def test_attachments_follow_one_another() -> None:
    model, x = residual().eval(), images()
    before = model(x)
    for name, where in (("cbam", "residual"), ("se", "stage"), ("self_attention", "stem"), ("eca", "input")):
        sc.attach(model, name, where=where, example_inputs=x)
        assert torch.equal(model(x), before), name
    assert len(sc.detach(model)) == 4 + 2 + 1 + 1
    assert torch.equal(model(x), before)


def test_without_residual_branches_the_default_is_the_end_of_each_stage() -> None:
    model, x = UNet(), torch.randn(2, 3, 16, 16)
    stages = [site.path for site in sc.sites(model, x).of("stage")]
    plan = sc.attach(model, "cbam", example_inputs=x)
    assert [(site.path, site.kind) for site in plan] == [(path, "stage") for path in stages]
    sc.detach(model)
    with raises(sc.BadOption, owner="attach", option="where", value="residual"):
        sc.attach(model, "cbam", where="residual", example_inputs=x)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    with raises(sc.BadOption, owner="attach", option="where", value="residual"):
        sc.attach(linear, "cbam", example_inputs=x)


def test_a_second_one_in_a_place_is_refused_unless_asked_for() -> None:
    model, x = residual().eval(), images()
    sc.attach(model, "cbam", example_inputs=x)
    with raises(sc.BadOption, owner="attach", option="where", value="stage1.0.norm2"):
        sc.attach(model, "se", where=["stage1.0.norm2"], example_inputs=x)
    sc.attach(model, "se", where=["stage1.0.norm2"], example_inputs=x, allow_multiple=True, identity=False)
    with sc.record(model) as maps:
        y = model(x)
    assert "stage1.0.norm2.attention_2.mechanism" in maps
    host = model.get_submodule("stage1.0.norm2")
    assert isinstance(host, nn.BatchNorm2d)
    features = torch.randn(2, 32, 5, 4)
    plain = F.batch_norm(features, host.running_mean, host.running_var, host.weight, host.bias, eps=host.eps)
    expected = host.get_submodule("attention_2")(
        host.get_submodule("attention")(plain)
    )  # each once, in order
    torch.testing.assert_close(host(features), expected)
    assert y.isfinite().all()
    assert sc.detach(model).count("stage1.0.norm2.attention_2") == 1


@pytest.mark.parametrize("example", [images(), torch.zeros(1, *IMAGES[2])], ids=["images", "zeros"])
def test_a_branch_that_would_never_train_is_refused(example: Tensor) -> None:
    model = residual()
    last = model.get_submodule("stage1.0.norm2")
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    before = [*fingerprint(model)]
    with raises(sc.BadOption, owner="attach", option="identity", value=False):
        sc.attach(model, "sk", example_inputs=example, identity=False)
    assert [*fingerprint(model)] == before
    for name, identity in (("se", False), ("sk", True)):
        sc.attach(model, name, example_inputs=example, identity=identity)
        gradients = run(model, images(), training=True)[1]
        assert (weight := gradients["stage1.0.norm2.weight"]) is not None, name
        assert weight.any(), name
        sc.detach(model)
    assert len(sc.attach(residual(), "sk", example_inputs=example, identity=False)) == 4


def test_a_name_that_is_taken_is_left_alone() -> None:
    model = Named().eval()
    example = {"image": torch.randn(2, 3, 8, 8), "scale": torch.ones(())}
    before = model(**example)
    with raises(sc.BadOption, owner="attach", option="where", value="residual"):
        sc.attach(model, "se", where="residual", example_inputs=example)
    vars(model.conv)["attention"] = "mine"
    sc.attach(model, "se", where="head", example_inputs=example)
    assert any(key.startswith("conv.attention_2.") for key in model.state_dict())
    assert torch.equal(model(**example), before)
    assert sc.detach(model) == ["conv.attention_2"]
    assert sc.sites(model, example, "se", reduction=2).of("head")[0].share
    tuple_example = (torch.ones(()), torch.randn(2, 3, 8, 8))
    assert sc.sites(model, tuple_example) == sc.sites(model, example)


def test_the_image_itself_can_be_attended_to() -> None:
    model, x = residual().eval(), images()[..., :8, :8]
    before = model(x)
    plan = sc.attach(model, "spatial_transformer", where="input", example_inputs=x, identity=False)
    assert [(site.path, site.shape) for site in plan] == [("stem.0", (3, 8, 8))]
    with torch.no_grad():
        model.get_parameter("stem.0.attention.mechanism.head.bias").copy_(torch.tensor([-1.0, 0, 0, 0, 1, 0]))
    scores_of_flipped = model(x.flip(3))
    torch.testing.assert_close(scores_of_flipped, before, rtol=1e-4, atol=1e-5)


def test_maps_are_recorded_under_the_paths_of_the_network() -> None:
    model, x = residual(), images()
    sc.attach(model, "cbam", example_inputs=x)
    with sc.record(model) as maps:
        model(x)
    assert "stage2.1.norm2.attention.mechanism.spatial" in maps
    assert maps["stage2.1"].heatmap((12, 10)).shape == (4, 12, 10)


def test_a_network_of_maps_trains_with_attention_on_its_functional_paths() -> None:
    torch.manual_seed(0)
    model, x = UNet(), torch.randn(2, 3, 16, 16)
    before = model(x)
    plan = sc.attach(model, "cbam", where="stage", example_inputs=x, reduction=4)
    assert {site.shape[1:] for site in plan} == {(16, 16), (8, 8), (4, 4)}
    assert torch.equal(model(x), before)
    run(model, x, training=True)
    assert len(sc.detach(model)) == len(plan)


def test_copies_carry_their_own_attention() -> None:
    model, x = residual().eval(), images()
    sc.attach(model, "cbam", example_inputs=x, identity=False)
    before = model(x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert torch.equal(model(x), before)
    assert len(sc.detach(twin)) == 4
    assert torch.equal(model(x), before)
    assert isinstance(model.get_submodule("stage1.0"), Block)
