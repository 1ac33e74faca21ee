"""Signals as in a foreground shell, and the markers that `make test-fast` or `make test` leave out."""

from __future__ import annotations

import gc
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.cluster import two_nodes
from support.forked import ForkServer

# A shell's background jobs ignore Ctrl-C, and so would the processes that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Marker -> parts of test ids: a folder, a file, a test, or a check of the contract. Each exists, see
#: tests/test_house.py. The fixture `browser` marks the tests of pages.
MARKED = {
    "ray": (
        "experiments/test_executors.py::test_a_cluster",
        "experiments/test_executors.py::test_files_of_a_node",
        "experiments/test_executors.py::test_an_address",
        "search/test_cluster.py::test_a_search_on_a_cluster",
    ),
    "process": (
        "experiments/test_executors.py",
        "experiments/test_compare.py::test_killed",
        "experiments/test_compare.py::test_ctrl_c",
        "experiments/test_score.py",
        "cli/test_options.py::test_completion_imports",
        "cli/test_options.py::test_what_is_piped",
        "cli/test_serve.py::test_the_page_follows",
        "cli/test_serve.py::test_a_signal",
        "training/test_robust.py",
        "data/test_decoding.py",
        "attachment/test_survival.py",
        "ops/test_triton_gates.py::test_the_kernels_in_the_interpreter",
        "search/test_cluster.py::test_a_search_on_a_cluster",
        "search/test_search.py",
        "search/test_study.py::test_a_trial_of_a_process",
        "search/test_study.py::test_a_process_takes",
        "layers/test_registry.py::test_a_mechanism_is_loaded",
        "test_browser_setup.py",
        "test_faces.py::test_a_module_imports_alone",
        "test_house.py::test_importing",
        "test_house.py::test_the_wheel",
        "test_house.py::test_the_source",
        "test_typing.py",
        "benchmarks/test_quiet.py",
        "test_process_end.py",
        "layers/test_registry.py::test_importing_the_package",
    ),
    "slow": (
        "tests/hostile/test_command_lines.py",
        "tests/hostile/test_damaged_files.py",
        "tests/experiments/",
        "tests/search/test_photographs.py",
        "tests/search/test_search.py",
        "tests/search/test_study.py",
        "tests/training/",
        "attachment/test_sweep.py",
        "cli/test_serve.py::test_the_page_follows",
        "cli/test_serve.py::test_a_signal",
        "cli/test_serve.py::test_a_viewer",
        "attachment/test_inputs_and_outputs.py::test_branches_of_known",
        "attachment/test_inputs_and_outputs.py::test_detectors",
        "attachment/test_inputs_and_outputs.py::test_one_image_is",
        "attachment/test_libraries.py",
        "attachment/test_sites.py::test_known_networks",
        "attribution/test_cam_methods.py::test_segmentation",
        "attribution/test_cam_methods.py::test_the_default_layer_has",
        "attribution/test_comparison.py::test_all_that",
        "docs/test_readme.py::test_the_examples_of_explanations",
        "docs/test_results.py::test_the_table_of_mechanisms",
        "models/test_recurrent_attention.py::test_compiles",
        "models/test_recurrent_attention.py::test_learns",
        "models/test_residual_attention_network.py::test_it_learns",
        "models/test_residual_attention_network.py::test_runs_on",
        "ops/test_choice.py::test_large_maps",
        "ops/test_choice.py::test_transforms",
        "ops/test_native_gates.py::test_values_and_gradients",
        "recording/test_adapted_record.py::test_a_compiled",
        "recording/test_capture.py::test_models_of_timm",
        "recording/test_networks.py",
        "recording/test_record.py::test_a_compiled",
        "recording/test_windows.py::test_queries_change",
        "search/test_cluster.py",
        "search/test_recommendation.py::test_few_test_images",
        "search/test_recommendation.py::test_pure_noise",
        "search/test_space.py",
        "sharing/test_folder.py",
        "testing/test_contract.py::test_a_hard_mechanism_that_returns",
        "testing/test_contract.py::test_a_mechanism_of_a_third_party",
        "testing/test_contract.py::test_a_third_party_need",
        "integrations/test_recipes.py",
        "attachment/test_attach.py::test_attention_alone_learns",
        "attachment/test_attach.py::test_every_parameter",
        "attachment/test_attach.py::test_networks_of_any_dimension",
        "attachment/test_attach.py::test_output_and_gradients",
        "config/test_plan.py::test_a_comparison_builds",
        "config/test_recipe.py",
        "docs/test_command_runs.py",
        "docs/test_examples.py",
        "docs/test_support.py::test_the_file_agrees_with_an_export",
        "exporting/test_export.py",
        "docs/test_site.py",
        "docs/test_notebooks.py",
        "docs/test_readme.py::test_the_examples_of_the_guide",
        "layers/pairwise/test_halo.py::test_equals_the_formula",
        "layers/pairwise/test_neighborhood.py::test_equals_the_formula",
        "layers/pairwise/test_non_local.py::test_no_tensor",
        "layers/pairwise/test_non_local.py::test_the_mean",
        "layers/pairwise/test_pam.py::test_no_tensor",
        "layers/sampling/test_deformable.py::test_equals_the_formula",
        "layers/sampling/test_spatial_transformer.py::test_a_known_warp",
        "metrics/test_sanity.py::test_a_compiled",
        "ops/test_triton_gates.py::test_the_kernels_in_the_interpreter",
        "ops/test_triton_kernels.py::test_the_kernels_compile",
        "models/test_info_nce.py::test_compiles",
        "models/test_transformers.py::test_compiles",
        "models/test_transformers.py::test_exports",
        "viz/test_look.py::test_a_network_of",
        "viz/test_look.py::test_look_is_the_function",
        "viz/test_look.py::test_mistakes_on_the_command_line",
        "viz/test_look.py::test_without_pillow",
        "test_house.py::test_the_mechanism_that_contributing",
        "check_compile",
        "check_recompiles",
        "check_export",
        "attachment/test_compiled_functions.py",
        "cli/test_demo.py",
        "docs/test_pictures.py::test_the_text_of",
        "ops/test_native_gates.py::test_equal_values",
        "ops/test_native_gates.py::test_cbam_of_any",
        "ops/test_native_gates.py::test_a_graph_of_which",
        "recording/test_flex_attention.py",
        "layers/pairwise/test_additive.py::test_no_tensor",
        "layers/pairwise/test_additive.py::test_recording_never",
        "layers/pairwise/test_multi_head.py::test_recording_a_large",
        "sharing/test_hub.py",
        "viz/test_report.py",
        "models/test_residual_attention_network.py::test_the_activations",
        "search/test_recommendation.py::test_the_code_inserts",
        "viz/test_look.py::test_a_folder_of_frames",
        "attribution/test_cam_methods.py::test_captum",
        "test_torch_private.py",
        "check_autocast",
        "check_dtypes",
        "check_gradcheck",
        "check_large_activations",
        "check_layouts",
        "check_meta",
        "attachment/test_presence.py",
        "cli/test_display.py",
        "models/test_pretrained.py",
        "ops/test_compiled_gates.py",
        "ops/test_native_operators.py",
        "viz/test_live_page.py",
    ),
    # Long, and close to a shorter test that `make test` runs.
    "soak": (
        "search/test_cluster.py::test_a_search_on_a_cluster",
        "tests/test_plugins.py::test_a_cluster_trains_it",
        "experiments/test_executors.py::test_the_error_of_a_job_is_raised_here",
        "docs/test_command_runs.py::test_the_commands_of_a_guide_run[deploy.md]",
        "docs/test_command_runs.py::test_the_commands_of_a_guide_run[scale.md]",
        "docs/test_command_runs.py::test_the_commands_of_a_guide_run[search.md]",
        "docs/test_command_runs.py::test_the_commands_of_a_guide_run[training.md]",
        "attachment/test_libraries.py::test_in_and_out[torchvision fcos_resnet50_fpn]",
        "exporting/test_export.py::test_windows_take_maps",
        "search/test_study.py::test_a_trial_of_a_process_that_is_gone",
        "training/test_objectives.py::test_every_recipe_starts[cifar10-narrow]",
        "search/test_search.py::test_killed_at_any_moment_it_goes_on[15]",
    ),
}


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """Runs the command line in forked children."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def nodes() -> Iterator[tuple[str, Mapping[str, str]]]:
    """The address of a Ray cluster with two nodes, and the environment of a process that connects to it."""
    with two_nodes() as started:
        yield started


@pytest.fixture
def cluster(nodes: tuple[str, Mapping[str, str]], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a Ray cluster with two nodes, to which this process can connect."""
    address, access = nodes
    for name, value in access.items():
        monkeypatch.setenv(name, value)
    return address


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its id, and those that use the fixture `browser`. The longest files come first.

    Otherwise one process would run a long test at the end while the other has nothing left to do. The tests
    on the cluster are the very first, so that one process runs all of them.
    """
    patterns = {marker: re.compile("|".join(map(re.escape, parts))) for marker, parts in MARKED.items()}
    for item in items:
        for marker, pattern in patterns.items():
            if pattern.search(item.nodeid):
                item.add_marker(marker)
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
    ranks: dict[Path, int] = {}
    for item in items:
        found = (rank for rank, marker in enumerate(MARKED) if item.get_closest_marker(marker))
        ranks[item.path] = min(ranks.get(item.path, len(MARKED)), *found, len(MARKED))
    items.sort(key=lambda item: ranks[item.path])


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what is imported by now: to search it takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(params=["all weights", "without"])
def either_form(request: pytest.FixtureRequest) -> None:
    """Run a test of attention between positions in the form of small maps, and in that of large ones."""
    if request.param == "without":
        request.getfixturevalue("without_all_weights")


@pytest.fixture
def without_all_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test of attention between positions in the form of large maps, which never holds all weights."""
    from saccade.layers.pairwise import window
    from saccade.ops import chunks

    monkeypatch.setattr(chunks, "_FEW", 0)
    monkeypatch.setattr(window, "_FEW", 0)
