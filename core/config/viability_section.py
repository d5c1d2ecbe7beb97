"""Settings of what counts as a viable layout, and of how Stage 3 is shown viable ones and others."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from core.config.setting_effects import AddedLater, InputFile, OnlyWith, Results, Speed
from core.inputs.locations import Place
from core.inputs.section import Seconds, Section, Share, ShareOrAll, ShareOrNone

# The rules of `core.audit.rules`.
Rule = Literal["on_palette", "enclosed", "reachable", "clear_doorways", "no_fragments", "furnished"]


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character, which no argument of a command can have: remove it")
    return text


# The setting acts where generated latents of both kinds are told apart.
WithLabels = OnlyWith("labels", ("rules", "file", "command"))
Argument = Annotated[str, Field(max_length=4096), AfterValidator(_argument)]


class ViabilitySection(Section):
    """Which generated layouts count as viable, and how Stage 3 draws viable ones and others."""

    labels: Results[Literal["generated", "rules", "file", "command"]] = Field(
        "generated",
        description="generated: real latents are good, all generated ones bad; rules: the audit's rules judge each "
        "generated layout; file: a critic does that learnt from a person's labels; command: a program of the user's",
    )
    rules: Annotated[Results[tuple[Rule, ...] | None], OnlyWith("labels", ("rules",))] = Field(
        None, description="the rules that a viable layout keeps; all of them if empty"
    )
    match: Annotated[Results[bool], WithLabels] = Field(
        True, description="compare viable and other layouts of the same fifth of the real layouts' furniture share"
    )
    shares: Annotated[Results[dict[Rule, ShareOrAll]], OnlyWith("labels", ("rules",))] = Field(
        {}, description="by rule, the share of the bad layouts of a step that are drawn among those that break it"
    )
    real_share: Annotated[Results[ShareOrNone], WithLabels, AddedLater()] = Field(
        0.0, description="the share of the viable latents of a step that real ones stand in for"
    )
    file: InputFile[Place | None] = Field(
        None, description="labels.csv that was saved from a label page, for labels: file"
    )
    latents: InputFile[Place | None] = Field(
        None, description="folder of generate-bad-latents whose layouts the file labels, of an earlier round"
    )
    least_auc: Annotated[Results[Share], OnlyWith("labels", ("file",))] = Field(
        0.65, description="the critic judges if its AUC on labels that it did not see is above this"
    )
    command: Annotated[Results[tuple[Argument, ...] | None], OnlyWith("labels", ("command",))] = Field(
        None, description="program and arguments, for labels: command; a folder of pictures and a manifest follow them"
    )
    command_seconds: Speed[Seconds] = Field(600, description="after so long the command is ended, and the round fails")

    @model_validator(mode="after")
    def _shares_fit(self) -> "ViabilitySection":
        if sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"shares add up to {sum(self.shares.values()):.3g}: they may be 1 at most")
        return self

    @model_validator(mode="after")
    def _has_its_command(self) -> "ViabilitySection":
        if self.command is not None and not any(self.command[:1]):
            raise ValueError("command names no program: give a list of the program and its arguments")
        if self.labels == "command" and self.command is None:
            raise ValueError("labels command needs command: give a list of the program and its arguments")
        return self
