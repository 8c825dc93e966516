"""Settings: what is accepted, and what a wrong one is told."""

from pathlib import Path

import pytest
import yaml

from raycap.config import CaptionConfig
from raycap.config.loading import load_config, validate_config
from raycap.errors import ConfigError


def load(*settings: str, file: Path | None = None) -> CaptionConfig:
    return load_config(CaptionConfig, file, list(settings))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def test_nothing_set_gives_the_defaults() -> None:
    assert load() == CaptionConfig()


def test_the_command_line_wins_over_the_file(file: Path) -> None:
    file.write_text("engine: {batch_size: 4, part_size: 10}\nmodel:\n  name: demo\n")
    config = load("engine.batch_size=16", "model.precision=bf16", file=file)
    assert (config.engine.batch_size, config.engine.part_size) == (16, 10)
    assert (config.model.name, config.model.precision) == ("demo", "bf16")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("engine.max_failed_share=1e-5", 1e-5),
        ("engine.max_failed_share=.5", 0.5),
        ("engine.gpus_per_actor=0.25", 0.25),
        ("engine.batch_size=null", None),
        ("engine.batch_size=~", None),
        ("engine.batch_size= NULL ", None),
        ("engine.batch_size='7'", 7),
        ("storage.anonymous=true", True),
        ("storage.anonymous=no", False),
        ("generation.prompt=", ""),
        ("generation.prompt=a picture of", "a picture of"),
        ("generation.prompt=a: b = c", "a: b = c"),
        ("generation.prompt=yes", "yes"),
        ("generation.prompt={tags}", "{tags}"),
        ("generation.prompt=[[ {tags}.]] It?", "[[ {tags}.]] It?"),
        ("generation.prompt='{tags}'", "{tags}"),
        ("source.keep_columns=[a, b]", ("a", "b")),
        ("generation.prompt=2024", "2024"),
        ("generation.prompt=@home #1", "@home #1"),
        ("generation.prompt='null '", "null "),
        ("generation.sampling.top_k=5", 5),
        (" model.name = org/name@rev", "org/name@rev"),
    ],
)
def test_a_value_on_the_command_line_is_read_as_its_field_wants_it(
    setting: str, value: object
) -> None:
    found: object = load(setting)
    for name in setting.partition("=")[0].strip().split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "bounds"),
    [("4", (4, 4)), ("1..8", (1, 8)), (" 2 .. 3 ", (2, 3)), ("{min: 1, max: 2}", (1, 2))],
)
def test_actors_are_a_number_or_a_range(text: str, bounds: tuple[int, int], file: Path) -> None:
    file.write_text(f"engine:\n  num_actors: {text}\n")
    for config in (load(f"engine.num_actors={text}"), load(file=file)):
        assert config.engine.num_actors is not None
        assert (config.engine.num_actors.min, config.engine.num_actors.max) == bounds
    assert load("engine.num_actors=null", file=file).engine.num_actors is None


def test_headings_without_settings_change_nothing(file: Path) -> None:
    file.write_text("engine:\n  # batch_size: 4\ngeneration:\n  sampling:\nmodel: {}\n")
    assert load(file=file) == CaptionConfig()
    assert load("engine.batch_size=4", file=file).engine.batch_size == 4
    assert load("generation.sampling.top_k=4", file=file).generation.sampling.top_k == 4
    file.write_text("# nothing\n")
    assert load(file=file) == CaptionConfig()


WRONG: dict[str, tuple[str | None, str]] = {  # the setting at fault, and what is allowed
    "engine.zz=1": ("engine.zz", "batch_size, num_actors, "),
    "zz=1": ("zz", "model, generation, image, engine, storage"),
    "zz.y=1": ("zz", "model, "),
    "generation.sampling.zz=1": ("generation.sampling.zz", "enabled, "),
    "engine.num_actors.zz=1": ("engine.num_actors.min", "engine.num_actors.zz: "),
    "engine.num_actors={min: 1, max: 2, zz: 3}": ("engine.num_actors.zz", "min, max"),
    "engine.num_actors.min=3": ("engine.num_actors.max", ""),
    "engine.num_actors=x": ("engine.num_actors", "1..8"),
    "engine.num_actors=-1": ("engine.num_actors", "1..8"),
    "engine.num_actors=²": ("engine.num_actors", "1..8"),
    "engine.num_actors=8..1": ("engine.num_actors", "max"),
    "engine.num_actors=0": ("engine.num_actors.min", "1"),
    "engine.batch_size=0": ("engine.batch_size", "1, got '0'"),
    "engine.batch_size=None": ("engine.batch_size", "null"),
    "engine.batch_size=": ("engine.batch_size", "integer"),
    "engine.batch_size=3.5": ("engine.batch_size", "integer"),
    "engine.batch_size=[1]": ("engine.batch_size", "[1]"),
    "storage.timeout_s=inf": ("storage.timeout_s", "finite"),
    "generation.length_penalty=nan": ("generation.length_penalty", "finite"),
    "model={compile: true, precision: int8}": ("model", "precision=int8"),
    "model.precision=fp8": ("model.precision", "'auto', 'fast', 'fp32', 'bf16', 'fp16' or 'int8'"),
    "model.fast_on_cpu=bf16": ("model", "precision=fast"),
    "generation.num_captions=5": ("generation", "num_beams"),
    "engine=3": ("engine", "dictionary"),
    "engine": ("engine", "section.field=value"),
    "=3": (None, "section.field=value"),
    "source.keep_columns=[x": ("source.keep_columns", "'[x'"),
    "source.split=" + "[" + "x, " * 50 + "]": ("source.split", "'..."),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_setting_is_named_with_what_is_allowed(wrong: str) -> None:
    setting, allowed = WRONG[wrong]
    with pytest.raises(ConfigError) as caught:
        load(wrong)
    assert caught.value.setting == setting
    assert (setting or wrong) in str(caught.value)
    assert allowed in str(caught.value)
    assert all(len(line) < 400 for line in str(caught.value).splitlines())


def test_a_value_is_not_a_section() -> None:
    with pytest.raises(ConfigError) as caught:
        load("model.name=a", "model.name.x=3")
    assert caught.value.setting == "model.name.x"


def test_every_wrong_setting_is_told(file: Path) -> None:
    file.write_text("engine: {zz: 1, batch_size: no}\nyy: 2\n")
    with pytest.raises(ConfigError) as caught:
        load(file=file)
    told = str(caught.value).splitlines()
    assert sorted(line.partition(":")[0] for line in told) == [
        "engine.batch_size",
        "engine.zz",
        "yy",
    ]


@pytest.mark.parametrize(
    ("text", "setting", "fact"),
    [
        ("- a\n", None, "'engine: {"),
        ("word", None, "'engine: {"),
        ("a: [\n", None, "YAML"),
        ("!!python/object:os.system {}", None, "YAML"),
        ("1: 2\n", None, "'engine: {"),
        ("engine: [1]\n", "engine", "dictionary"),
        ("engine: {1: 2}\n", "engine.1", "strings"),
        ("engine.batch_size: 4\n", "engine.batch_size", "model, "),
        ("storage: {timeout_s: .inf}\n", "storage.timeout_s", "finite"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(
    file: Path, text: str, setting: str | None, fact: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file=file)
    assert caught.value.setting == setting
    assert caught.value.uri == (None if setting else str(file))
    assert fact in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"model: {name: \xe9}")
    for name in ("none.yaml", "", "latin.yaml"):
        with pytest.raises(ConfigError, match="YAML") as caught:
            load(file=tmp_path / name)
        assert caught.value.uri == str(tmp_path / name)


def test_a_resolved_config_is_read_back_as_it_was(file: Path) -> None:
    config = load("engine.num_actors=1..8", "generation.sampling.top_k=5", "storage.timeout_s=0.5")
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load(file=file) == config
    assert validate_config(CaptionConfig, config.model_dump()) == config
    assert hash(load(file=file).storage) == hash(config.storage)


def test_every_setting_is_described() -> None:
    def described(section: type, path: str = "") -> None:
        for name, field in section.model_fields.items():  # type: ignore[attr-defined]
            assert field.description, f"{path}{name}"
            if hasattr(field.annotation, "model_fields"):
                described(field.annotation, f"{path}{name}.")

    described(CaptionConfig)


@pytest.mark.parametrize(
    ("prompts", "setting"),
    [
        ({"short": {"text": "a", "foo": 1}}, "prompts.short.foo"),
        ({"short": {"text": "a", "max_new_tokens": 0}}, "prompts.short.max_new_tokens"),
        ({"a b": "?"}, "prompts"),
        ("what is it?", "prompts"),
    ],
)
def test_a_wrong_prompt_is_told_by_its_name(prompts: object, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config(CaptionConfig, {"prompts": prompts})
    assert caught.value.setting == setting


def test_a_secret_in_a_header_is_not_told() -> None:
    for wrong in ({"min_in_flight": 9, "max_in_flight": 1}, {"nonsense": 1}):
        endpoint = {"headers": {"X-Key": "s3cret"}, **wrong}
        with pytest.raises(ConfigError) as raised:
            validate_config(CaptionConfig, {"endpoint": endpoint})
        assert "s3cret" not in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        validate_config(CaptionConfig, {"endpoint": {"headers": {"X-Key": ["s3cret"]}}})
    assert "s3cret" not in str(raised.value)
