"""Settings of the models: the autoencoder, the UNet and its noise schedule."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from core.config.setting_effects import AddedLater, InputFile, Results, Speed
from core.inputs.locations import Place
from core.inputs.section import (
    NUMBER,
    Channels,
    Few,
    Halvings,
    HalvingsOrNone,
    Level,
    Section,
    Share,
    ShareOrNone,
    plain,
)


class AutoencoderSection(Section):
    """The autoencoder: its checkpoint and its sizes. The diffusion stages never train it."""

    checkpoint: InputFile[Place | None] = None
    frozen: Results[Literal[True]] = True
    latent_channels: Results[Channels] = 16
    base_channels: Results[Channels] = 32
    downsampling_steps: Results[HalvingsOrNone] = 4
    max_channels: Results[Channels] = 256


class UNetSection(Section):
    """The denoiser: a UNet over latents."""

    type: Results[Literal["UNet2DModel", "Unet"]] = Field(
        "UNet2DModel",
        description="UNet2DModel of diffusers, or Unet of ImgiNav, which its checkpoints set",
    )
    in_channels: Results[Channels] = 16
    out_channels: Results[Channels] = 16
    base_channels: Results[Channels] = 128
    depth: Results[Halvings] = 4
    num_res_blocks: Results[Few] = 2
    time_dim: Results[Channels | None] = None
    norm_groups: Results[Channels] = 8
    dropout: Results[ShareOrNone] = 0.2
    attention_at: Results[tuple[Level, ...]] = Field((), description="levels (0 = finest) with self-attention")
    mid_attention: Results[bool] = False
    gradient_checkpointing: Speed[bool] = Field(
        False, description="compute activations again in the backward pass instead of keeping them"
    )
    config: Annotated[Results[Annotated[dict[str, Any], AfterValidator(plain)] | None], AddedLater()] = Field(
        None, description="config.json of a UNet2DModel, in place of the sizes above; that of an imported checkpoint"
    )
    cond_channels: Results[Literal[0]] = 0
    fusion_mode: Results[Literal["none"]] = "none"

    @field_validator("type", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip().lower() == "unetwithattention":
            raise ValueError("UnetWithAttention of ImgiNav has attention, which the rounds cannot train: give a Unet")
        # What ImgiNav called the same network before.
        return "Unet" if isinstance(value, str) and value.strip().lower() == "dualunet" else value

    @property
    def halvings(self) -> int:
        """How often the UNet halves the sides of a latent."""
        if self.config is not None:
            return len(self._widths) - 1
        return self.depth if self.type == "Unet" else self.depth - 1

    @property
    def _widths(self) -> list[int]:
        """Channels of each level of `config`."""
        widths: list[int] = (self.config or {}).get("block_out_channels", [])
        return widths

    @property
    def widest(self) -> int:
        """Channels of the widest level."""
        if self.config is not None:
            return max(self._widths, default=0)
        return int(self.base_channels * 2 ** (self.depth - 1))

    @model_validator(mode="after")
    def _shapes_agree(self) -> "UNetSection":
        if self.in_channels != self.out_channels:
            raise ValueError(f"in_channels {self.in_channels} and out_channels {self.out_channels} must be equal")
        if self.config is not None:
            return self._only_config()
        if self.type == "Unet" and (self.attention_at or self.mid_attention):
            raise ValueError("type Unet has no attention: leave attention_at and mid_attention out")
        if self.type != "Unet" and self.base_channels % self.norm_groups:
            raise ValueError(f"base_channels {self.base_channels} must be a multiple of norm_groups {self.norm_groups}")
        if self.attention_at and max(self.attention_at) >= self.depth:
            raise ValueError(f"attention_at {list(self.attention_at)}: levels are 0 to {self.depth - 1} (depth - 1)")
        return self

    def _only_config(self) -> "UNetSection":
        """This section, if it gives no size beside `config`."""
        widths = self._widths
        if not isinstance(widths, list) or not widths or not all(type(width) is int and width > 0 for width in widths):
            raise ValueError("config gives no block_out_channels: give the config.json of a UNet2DModel")
        for name in ("base_channels", "depth", "num_res_blocks", "time_dim", "norm_groups", "attention_at", "type"):
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                raise ValueError(f"{name} {getattr(self, name)} has no effect beside config, which gives it: remove it")
        return self


class SchedulerSection(Section):
    """The noise schedule, and what the UNet predicts."""

    type: Results[Literal["CosineScheduler", "LinearScheduler"]] = "CosineScheduler"
    num_steps: Results[Annotated[int, NUMBER, Field(ge=2, le=10_000)]] = 500
    prediction_type: Results[Literal["epsilon", "v_prediction", "sample"]] = Field(
        "epsilon", description="what the UNet predicts; losses and samplers use the noise that follows from it"
    )
    trained_betas: Annotated[Results[tuple[Share, ...] | None], AddedLater()] = Field(
        None, description="beta of each step, in place of the schedule that type names; that of an imported checkpoint"
    )

    @model_validator(mode="after")
    def _one_beta_for_each_step(self) -> "SchedulerSection":
        if self.trained_betas is not None and len(self.trained_betas) != self.num_steps:
            raise ValueError(f"trained_betas has {len(self.trained_betas)} values, num_steps is {self.num_steps}")
        return self
