"""Settings of the dataset: the manifest or generated layouts, its columns and filters, the working size."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from core.config.setting_effects import InputFile, Nothing, Results
from core.inputs.locations import Place, expanded
from core.inputs.section import NUMBER, Name, Samples, Section, Seed, Side, plain


class OutputsSection(Section):
    """Columns of the manifest."""

    latent: Results[Name] = "latent_path"
    rgb: Results[Name] = "layout_path"
    segmentation: Results[Name] = "layout_path"

    @model_validator(mode="after")
    def _one_picture(self) -> "OutputsSection":
        if self.segmentation != self.rgb:
            raise ValueError(
                f"segmentation {self.segmentation} and rgb {self.rgb} must be the same column: classes are read from "
                "the layout picture's colours"
            )
        return self


RoomCount = Annotated[int, NUMBER, Field(ge=1, le=6)]


class SyntheticSection(Section):
    """Generated layouts in place of the user's manifest."""

    count: Samples = 1000
    seed: Seed = 0
    rooms: tuple[RoomCount, RoomCount] = (1, 6)

    @model_validator(mode="after")
    def _rooms_ascend(self) -> "SyntheticSection":
        if self.rooms[0] > self.rooms[1]:
            raise ValueError(f"rooms {list(self.rooms)} must be [fewest, most]")
        return self


class DatasetSection(Section):
    """The layouts: a manifest or generated ones, which rows of it, and their working size."""

    manifest: InputFile[Place | None] = None
    palette: InputFile[Place | None] = Field(
        None, description="YAML file of the name and colour of each class of the pictures; that of the project if empty"
    )
    # Generated layouts count by their content, as the user's manifest does.
    synthetic: InputFile[SyntheticSection | None] = None
    outputs: OutputsSection = OutputsSection()
    filters: Results[Annotated[dict[str, Any], AfterValidator(plain)]] = Field(
        default_factory=lambda: {"is_empty": [False]}
    )
    return_path: Nothing[bool] = False
    image_size: Results[Side] = 512
    augment: Results[bool] = Field(False, description="encode all eight rotations and mirrors of every original")
    path_remap: InputFile[dict[str, str]] = Field(
        default_factory=dict, description="path prefix in the manifest -> the prefix on this machine"
    )

    @model_validator(mode="after")
    def _generated_in_own_colours(self) -> "DatasetSection":
        if self.palette is not None and self.manifest is None and self.synthetic is not None:
            raise ValueError(
                f"palette {self.palette} is for pictures of a manifest, and synthetic layouts are drawn in the "
                "project's own colours: remove one of the two"
            )
        return self

    @field_validator("path_remap")
    @classmethod
    def _expand_prefixes(cls, remap: dict[str, str]) -> dict[str, str]:
        # A prefix of the manifest is text from another machine; an empty prefix here makes a path relative.
        return {prefix: here and expanded(here) for prefix, here in remap.items()}
