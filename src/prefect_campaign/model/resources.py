"""What one experiment needs of a machine."""

import shlex
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Model(BaseModel):
    """Strict about unknown fields, for a typing error must never be ignored, and about numbers being numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Network(Model):
    """Size of the network that an experiment trains or runs, for an estimate of its memory by formula."""

    parameters_b: float = Field(gt=0, le=100_000, description="Parameters in billions, e.g. 0.11 for BERT base.")
    trained_b: float | None = Field(
        default=None, gt=0, description="How many of them are trained (adapters, LoRA), in billions; default: all."
    )
    optimizer: Literal["adam", "adam8bit", "momentum", "sgd", "none"] = Field(
        default="adam",
        description="By what it keeps for each parameter: adam is AdamW as well. none: nothing is trained.",
    )
    precision: Literal["fp32", "mixed", "fp16", "int8", "int4"] = Field(
        default="mixed", description="mixed: fp16 or bf16 with a copy in fp32; fp16: all in fp16 or bf16."
    )
    sample_mb: float = Field(
        default=0, ge=0, description="MiB by which the peak grows with one more sample in the batch (activations)."
    )
    batch_size: Annotated[int, Field(ge=1)] | str = Field(
        default="batch_size", description="Samples on one GPU at a time: a number, or the template field that has it."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=0, description="What is divided among the GPUs: 1 optimizer states, 2 gradients too, 3 parameters too."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.trained_b is not None and self.trained_b > self.parameters_b:
            raise ValueError(f"trained_b ({self.trained_b:g}) is more than parameters_b ({self.parameters_b:g})")
        if self.optimizer == "none" and self.trained_b is not None:
            raise ValueError("trained_b needs an optimizer")
        if self.optimizer != "none" and not self.sample_mb:
            raise ValueError("sample_mb is needed for training: activations are often most of the memory")
        if self.optimizer != "none" and self.precision in ("int8", "int4") and self.trained_b is None:
            raise ValueError(f"{self.precision} parameters cannot be trained; name the adapters' size in trained_b")
        return self


class Resources(Model):
    """What one experiment needs."""

    gpus: int = Field(
        default=0, ge=0, le=64, description="All on one host. 0: it takes a processor slot and sees no GPU."
    )
    vram_mb: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="MiB per GPU, until earlier runs, a probe or a formula say better; auto: a whole GPU until then.",
    )
    vram_params: list[str] | None = Field(
        default=None,
        description="Template fields that change how much memory is needed; default: all but those that are known not "
        "to, such as epochs, lr and seed. Memory measured with equal values of these is taken to be the same.",
    )
    probe: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Extra arguments for a short run that shows the memory needed.",
        examples=[["--dry-run"], ["--max-samples", "2"]],
    )
    network: Network | None = Field(default=None, description="For an estimate by formula, where nothing was measured.")
    cpus: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Processors; default: the launcher's own: 1 where a queue is asked, all but two in a container. "
        "Without GPUs an experiment waits until so many are free, or all of a machine that has fewer; unless a number "
        "of experiments at once was named.",
    )
    memory_mb: int | None = Field(default=None, ge=1, description="MiB of main memory; default: the launcher's.")
    shm_mb: int | None = Field(default=None, ge=1, description="MiB of shared memory, where a container limits it.")
    disk_mb: int | None = Field(default=None, ge=1, description="MiB of disk, where a queue or a container limits it.")
    time_minutes: float | None = Field(default=None, gt=0, description="An attempt that runs longer is stopped.")
    expected_minutes: float | None = Field(
        default=None, gt=0, description="Of a full experiment; where GPUs are placed, default: as earlier ones took."
    )

    @field_validator("probe", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """One text is split like a command: ``probe: --max-samples 2``."""
        return shlex.split(value) if isinstance(value, str) else value

    @property
    def declared_mb(self) -> int | None:
        """The user's own number of MiB per GPU, if there is one."""
        return None if self.vram_mb == "auto" else self.vram_mb

    @property
    def expected_seconds(self) -> float | None:
        """The user's own number for how long a full experiment takes, if there is one."""
        return None if self.expected_minutes is None else self.expected_minutes * 60

    @model_validator(mode="after")
    def _for_gpus(self) -> Self:
        given = next((name for name in ("vram_params", "probe", "network") if getattr(self, name) is not None), None)
        if given and not self.gpus:
            raise ValueError(f"{given} says how much GPU memory is needed, but gpus is 0")
        return self
