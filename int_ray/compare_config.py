"""The configuration of `int-ray compare`: which arms, and with how many seeds."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt
from pydantic_core import PydanticCustomError

from int_ray.config_section import Section


def _arm_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise PydanticCustomError("arm_name", "choose a name of letters, digits and '_', such as standard_rl")
    return name


class CompareConfig(Section):
    """Runs that differ in a few settings, side by side (section 6)."""

    arms: dict[Annotated[str, AfterValidator(_arm_name)], tuple[str, ...]] = Field(
        default_factory=dict,
        description="Name (of folders) -> settings in which the arm differs, such as [schedule=never]. The paper's "
        "claims are about one arm each of standard_rl (schedule: never), distillation (patch.clone: solutions) and int "
        "(all others): the one of that name, which no other method may have, or else the first.",
    )
    seeds: PositiveInt = Field(default=1, description="Runs of each arm, with run.seed, run.seed + 1 and so on.")
