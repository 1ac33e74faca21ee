"""The schema of the files of a search; see `saccade.results.schema` for that of runs and comparisons."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict, final

from saccade.results.schema import Hardware, Interval, Row, TaskSummary

Factor = Literal["mechanism", "place"]
CostName = Literal["parameters", "flops", "latency_ms", "memory"]
State = Literal["running", "complete", "stopped", "refused", "failed"]


class SearchCosts(TypedDict):
    """The cost of a model, measured before training."""

    parameters: Annotated[int, "Number of trainable parameters."]
    flops: Annotated[int, "FLOPs of one forward pass of one image."]
    latency_ms: Annotated[float | None, "Latency of one image in milliseconds; null without a limit on it."]
    memory: Annotated[int | None, "Bytes of one training step, estimated; null without a limit on it."]


class SpaceCandidate(TypedDict):
    """A mechanism at a place."""

    attention: Annotated[str, "The attention, `NAME[:option=value,...]@PLACE`."]
    mechanism: Annotated[str, "The mechanism, `NAME[:option=value,...]`."]
    place: Annotated[str, "The place: a kind of site, or paths joined by `+`."]
    costs: Annotated[SearchCosts | None, "The cost of the model with it; null if it does not fit."]
    refused: Annotated[str | None, "Why it is not trained: it does not fit, or exceeds a limit."]


@final
class SearchSpace(TypedDict):
    """What a study chooses from. Written before the first run; a study of another space is refused."""

    schema: Annotated[int, "Schema number."]
    recipe: Annotated[dict[str, Any], "The recipe of all runs, without attention and seed."]
    mechanisms: Annotated[list[str], "The mechanisms."]
    places: Annotated[list[str], "Kinds of sites, or places, as they were given; empty for all kinds."]
    limits: Annotated[dict[str, str], "The limits as they were given, by the name of the cost."]
    baseline: Annotated[SearchCosts, "The cost of the model without attention."]
    candidates: Annotated[list[SpaceCandidate], "All candidates."]


class SearchRun(TypedDict):
    """The training of a candidate. Its test error is never computed."""

    attention: Annotated[str, "The attention, or `none`."]
    state: Annotated[State, "`stopped` by the pruner, `refused` by the model, `failed` with an error."]
    epochs: Annotated[int, "Completed epochs."]
    error: Annotated[float | None, "Validation error after the last of them, a fraction."]
    first_error: Annotated[float | None, "Validation error at the first rung, a fraction."]
    seconds: Annotated[float, "Duration of training in seconds."]
    reason: Annotated[str | None, "Why it was refused or failed."]


class FactorLevel(TypedDict):
    """What a mechanism or a place contributed, averaged over the candidates that have it."""

    factor: Annotated[Factor, "The factor."]
    level: Annotated[str, "The mechanism or the place."]
    candidates: Annotated[int, "Number of trained candidates that have it."]
    difference: Annotated[
        float, "Mean validation error at the first rung minus that of all candidates, a fraction."
    ]


class Advice(TypedDict):
    """What the finalists show."""

    attention: Annotated[str | None, "The recommended attention; null if nothing helped."]
    sentence: Annotated[str, "The recommendation in one sentence."]
    winners: Annotated[list[str], "Finalists with fewer test errors than `none` after Holm's correction."]
    difference: Annotated[Interval | None, "Test error of the recommended attention minus that of `none`."]
    code: Annotated[str | None, "Python code that inserts it; null if nothing helped."]
    pareto: Annotated[
        dict[str, list[str]], "Finalists and `none` that none beats in both test error and this cost."
    ]


@final
class SearchResults(TypedDict):
    """Results of a search. Written last."""

    schema: Annotated[int, "Schema number."]
    saccade: Annotated[str, "Version of saccade."]
    command: Annotated[str, "Command line of the process."]
    recipe: Annotated[dict[str, Any], "The recipe of all runs."]
    hardware: Annotated[Hardware, "The machine."]
    task: Annotated[TaskSummary, "The task."]
    budget: Annotated[str, "The budget as it was given."]
    spent: Annotated[float, "Spent on candidates: complete runs, or seconds for a budget of time."]
    seeds: Annotated[int, "Seeds of each finalist."]
    limits: Annotated[dict[str, str], "The limits as they were given."]
    candidates: Annotated[int, "Number of candidates within the limits."]
    refused: Annotated[int, "Number of candidates that do not fit or exceed a limit."]
    runs: Annotated[list[SearchRun], "The trained candidates, in the order in which they were chosen."]
    finalists: Annotated[list[str], "The candidates that were trained anew and tested."]
    factors: Annotated[list[FactorLevel], "What each mechanism and each place contributed."]
    leaderboard: Annotated[list[Row], "Test results of `none` and the finalists."]
    advice: Annotated[Advice, "The answer."]
