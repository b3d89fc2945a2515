"""The configuration of a run: what can be set, its defaults, and how presets, files and overrides are merged.

The defaults are the reference model's; a preset says where it differs. Facts known only at run time, such as
the frame size, are no options: they are measured on the recording.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lapa import registry
from lapa.errors import ConfigError, RegistryError
from lapa.sections import merge, plugin_config, to_object
from lapa.systems.latent_action.config import LossConfig, ModelConfig

DEFAULT_PRESET = "breakout"
PLUGIN_SECTIONS: dict[str, registry.Registry[Any]] = {
    "encoder": registry.encoders,
    "quantizer": registry.quantizers,
    "conditioner": registry.conditioners,
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which recordings, and what the model sees of them.

    Attributes:
        root: folder of recorded episodes, or a packed store by itself.
        store: file of the packed store; by default inside ``root``.
        color: ``grey`` (ITU-R 601 luma) or ``rgb``.
        downsample: k x k pixels become one.
        placement: where the prepared frames stay while training: ``device``, host ``memory``, or on ``disk``, from
            where worker processes read them; ``auto`` takes the first of the three that has room for them.
        split: shares of the episodes for training, validation and test.
        split_seed: seed of the deal.
    """

    root: str = "bulk_videos"
    store: str | None = None
    color: Literal["grey", "rgb"] = "grey"
    downsample: int = 1
    placement: Literal["auto", "device", "memory", "disk"] = "auto"
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    split_seed: int = 0


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast, and what is kept. The cadences count optimizer steps.

    Attributes:
        out: the run's folder.
        steps: optimizer steps.
        max_minutes: stop after so long, the schedules compressed to fit; null sets no limit.
        batch_size: pairs per step, over all micro-batches and all ranks.
        accumulate: micro-batches that a rank's share of the batch is cut into; more need less memory.
        learning_rate: at the start.
        final_learning_rate: at the end; a cosine lies between them.
        warmup: share of the training over which the learning rate rises from zero.
        clip_norm: gradients are scaled down to this norm.
        reseed_every: between re-seedings of unused codes.
        reseed_until: share of the training after which codes are left alone.
        log_every: between lines of training metrics.
        validate_every: between validations (losses, PSNR and SSIM on held-out episodes).
        validate_pairs: at most so many held-out pairs, at even distances, are looked at each time.
        usage_every: between histograms of code use on held-out episodes.
        examples_every: between pictures of held-out pairs.
        checkpoint_every: between checkpoints that training can go on from.
        keep_last: so many of these are kept; the older ones are deleted.
        max_non_finite: so many steps in a row with a loss or gradient that is not finite end the run.
        collapse_share: a codebook has collapsed when its perplexity is below this share of its codes ...
        collapse_steps: ... on the average of so many steps.
        device: ``auto`` takes CUDA where there is some.
        precision: ``auto`` takes bf16 where the hardware has it; ``fp16`` scales the loss.
        channels_last: memory layout of the convolutions.
        activation_checkpointing: recompute activations in the backward pass: less memory, more arithmetic.
        compile: let ``torch.compile`` fuse the model; the first steps then take minutes.
        num_workers: processes that read frames from disk; 0 reads in the training process.
        seed: of weights, batches and re-seedings.
    """

    out: str = "checkpoints/latent_action"
    steps: int = 100_000
    max_minutes: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 3e-4
    final_learning_rate: float = 1e-4
    warmup: float = 0.0
    clip_norm: float = 1.0
    reseed_every: int = 10_000
    reseed_until: float = 1.0
    log_every: int = 1
    validate_every: int = 1_000
    validate_pairs: int = 4_096
    usage_every: int = 5_000
    examples_every: int = 2_500
    checkpoint_every: int = 10_000
    keep_last: int = 3
    max_non_finite: int = 10
    collapse_share: float = 0.01
    collapse_steps: int = 500
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    activation_checkpointing: bool = False
    compile: bool = False
    num_workers: int = 2
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    """Who is told of a run's metrics beside ``metrics.jsonl``, which is always written.

    Attributes:
        wandb: Weights & Biases; ``auto`` is ``online`` where there is an API key and ``offline`` elsewhere. The
            environment variable ``WANDB_MODE`` comes before this.
        project: the Weights & Biases project.
        name: of the run; by default the name of its folder.
        init_timeout: seconds to wait for the server at the start.
        tensorboard: event files in the run's folder.
    """

    wandb: Literal["off", "auto", "online", "offline"] = "off"
    project: str = "lapa"
    name: str | None = None
    init_timeout: float = 15.0
    tensorboard: bool = False


@dataclasses.dataclass(frozen=True)
class Config:
    """All of a run's configuration."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)


def presets() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("lapa") / "presets"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def load_config(preset: str | None = None, file: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """The defaults, then the preset, then the file, then the dotted overrides; checked all the way down.

    Args:
        preset: one of :func:`presets`; :data:`DEFAULT_PRESET` if None.
        file: a YAML file that says what differs from the preset.
        overrides: ``dotted.key=value``, in order.

    Raises:
        ConfigError: an unknown key, preset or option, a wrong type, or an impossible value.
    """
    preset = preset or DEFAULT_PRESET
    if preset not in presets():
        raise ConfigError(f"unknown preset '{preset}'; known: {', '.join(presets())}")
    merged = merge(OmegaConf.structured(Config), _read_yaml(resources.files("lapa") / "presets" / f"{preset}.yaml"))
    given = [(f"{file}: ", "", _read_yaml(file))] if file is not None else []
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not (key and equals):
            raise ConfigError(f"override '{override}' is not of the form dotted.key=value")
        try:
            given.append(("", key, OmegaConf.from_dotlist([override])))
        except (YAMLError, OmegaConfBaseException):
            raise ConfigError(f"{key}: the value in '{override}' is not valid YAML; quote it") from None
    for _, _, changes in given:
        merged = _drop_foreign_options(merged, changes)
    for where, key, changes in given:
        for section in changes:  # one by one, so that an error can name it
            merged = merge(merged, OmegaConf.create({section: changes[section]}), where=where, at=key or str(section))
    return _finish(merged)


def config_from_dict(values: dict[str, Any]) -> Config:
    """The inverse of :func:`config_to_dict`, as strict as :func:`load_config`.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    return _finish(merge(OmegaConf.structured(Config), OmegaConf.create(values)))


def config_to_dict(config: Config) -> dict[str, Any]:
    """Plain dicts, lists and scalars, for checkpoints and YAML."""
    plain = OmegaConf.to_container(OmegaConf.create(dataclasses.asdict(config)))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.create(config_to_dict(config)))


def _finish(merged: DictConfig) -> Config:
    """Checks values and plugin sections, and fills the sections with their plugins' defaults."""
    config: Config = to_object(merged, "")
    sections: dict[str, Any] = {}
    for role, members in PLUGIN_SECTIONS.items():
        section = getattr(config.model, role)
        if not isinstance(section.get("name"), str):
            raise ConfigError(f"model.{role}.name: give one of {', '.join(members.names())}")
        try:
            options = plugin_config(members, section)
        except RegistryError as error:
            raise ConfigError(f"model.{role}.name: {error}") from error
        sections[role] = {"name": section["name"], **dataclasses.asdict(options)}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **sections))
    _check_values(config)
    return config


def _drop_foreign_options(base: DictConfig, changes: Any) -> DictConfig:
    """Lets one word swap a plugin: options the base set for the old one stay only if the new one has them too."""
    if not isinstance(changes.get("model"), DictConfig):
        return base
    values: Any = OmegaConf.to_container(base)
    for role, members in PLUGIN_SECTIONS.items():
        section = changes.model.get(role)
        name = section.get("name") if isinstance(section, DictConfig) else None
        if not isinstance(name, str) or name == values["model"][role].get("name") or name not in members.names():
            continue  # an unknown name is reported by _finish, with its dotted path
        try:
            known = {field.name for field in dataclasses.fields(members.get(name).Config)} | {"name"}
        except RegistryError:
            continue  # likewise
        values["model"][role] = {key: value for key, value in values["model"][role].items() if key in known}
    rebuilt = OmegaConf.merge(OmegaConf.structured(Config), values)
    assert isinstance(rebuilt, DictConfig)
    return rebuilt


def _read_yaml(path: Any) -> Any:
    try:
        plain = yaml.safe_load(path.read_text()) or {}
        values = OmegaConf.create(path.read_text()) if isinstance(plain, dict) else None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, DictConfig):
        raise ConfigError(f"{path}: a configuration is a mapping such as 'training: {{steps: 100}}'")
    return values


def _check_values(config: Config) -> None:
    data, model, loss, training, tracking = config.data, config.model, config.loss, config.training, config.tracking
    checks = {
        "data.downsample: must be at least 1": data.downsample >= 1,
        "data.split: must be three positive shares that sum to 1": min(data.split) > 0
        and abs(sum(data.split) - 1) < 1e-6,
        "model.latent_dim: must be at least 1": model.latent_dim >= 1,
        "model.tokens: must be 0 (keep the grid) or more": model.tokens >= 0,
        "model.decoder.channels: needs at least one positive width": bool(model.decoder.channels)
        and min(model.decoder.channels) > 0,
        "loss: weights must be finite and not negative": all(
            math.isfinite(weight) and weight >= 0 for weight in dataclasses.astuple(loss) if isinstance(weight, float)
        ),
        "loss.perceptual_weights: the perceptual loss needs a file of VGG16 weights; name one, or set loss.perceptual "
        "and loss.perceptual_end to 0": not (loss.perceptual or loss.perceptual_end) or bool(loss.perceptual_weights),
        "data.split_seed: must not be negative": data.split_seed >= 0,
        "training.seed: must not be negative": training.seed >= 0,
        "training.num_workers: must not be negative": training.num_workers >= 0,
        "training.reseed_until: must be a share in [0, 1]": 0 <= training.reseed_until <= 1,
        "model.decoder.up_channels: needs one width for each of model.decoder.channels, and the same last one first": (
            model.decoder.up_channels is None
            or (
                len(model.decoder.up_channels) == len(model.decoder.channels)
                and model.decoder.up_channels[0] == model.decoder.channels[-1]
                and min(model.decoder.up_channels) > 0
            )
        ),
        "training.steps: must be at least 1": training.steps >= 1,
        "training.batch_size: must be at least 2 (batch norm)": training.batch_size >= 2,
        "training.max_minutes: must be positive, or null for no limit": training.max_minutes is None
        or training.max_minutes > 0,
        "training.clip_norm: must be positive": training.clip_norm > 0,
        "training.learning_rate: must be positive": training.learning_rate > 0,
        "training.final_learning_rate: must not be negative": training.final_learning_rate >= 0,
        "training.warmup: must be a share in [0, 1)": 0 <= training.warmup < 1,
        "training: *_every must be at least 1": min(
            value for name, value in dataclasses.asdict(training).items() if name.endswith("_every")
        )
        >= 1,
        "training.accumulate: must be at least 1 and divide training.batch_size into parts of 2 or more (batch norm)": (
            training.accumulate >= 1
            and training.batch_size % training.accumulate == 0
            and training.batch_size // training.accumulate >= 2
        ),
        "training: validate_pairs, keep_last, max_non_finite and collapse_steps must be at least 1": min(
            training.validate_pairs, training.keep_last, training.max_non_finite, training.collapse_steps
        )
        >= 1,
        "training.collapse_share: must be a share in [0, 1)": 0 <= training.collapse_share < 1,
        "tracking.init_timeout: must be positive": tracking.init_timeout > 0,
    }
    for message, holds in checks.items():
        if not holds:
            raise ConfigError(message)
