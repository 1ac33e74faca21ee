"""Configuration: recipes and comparisons as YAML, and the plan that a recipe resolves to."""

from saccade.config.builtin import builtin_recipes, read_recipe
from saccade.config.comparison import FIRST_EXPERIMENT, Comparison, folder_name
from saccade.config.plan import AttentionChoice, Choice, Plan, resolve
from saccade.config.recipe import (
    Augment,
    Recipe,
    check_integer,
    check_number,
    read_settings,
    read_yaml,
)

__all__ = [
    "FIRST_EXPERIMENT",
    "AttentionChoice",
    "Augment",
    "Choice",
    "Comparison",
    "Plan",
    "Recipe",
    "builtin_recipes",
    "check_integer",
    "check_number",
    "folder_name",
    "read_recipe",
    "read_settings",
    "read_yaml",
    "resolve",
]
