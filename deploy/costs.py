"""Print what a million images cost, by GPU, as a Markdown table: `python deploy/costs.py [FILE]`.

Throughputs and prices are those of the file, `costs.yaml` beside this one unless another is named.
The formula stands at its top.
"""

import sys
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

IMAGES = 1_000_000
HEADER = ("GPU", "machine", "images/s per GPU", "GPU-hours", "on demand, USD", "spot, USD")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Head(_Strict):
    """The machine that all GPUs of a cluster share."""

    usd_per_hour: float = Field(ge=0)
    num_gpus: int = Field(gt=0)


class Gpu(_Strict):
    """A kind of GPU, and the machine that has it."""

    name: str
    machine: str
    num_gpus: int = Field(gt=0)
    images_per_s: float = Field(gt=0)
    usd_per_hour: float = Field(gt=0)
    spot_usd_per_hour: float = Field(gt=0)


class Costs(_Strict):
    """What `costs.yaml` states."""

    busy_share: float = Field(gt=0, le=1)
    usd_per_million_reads: float = Field(ge=0)
    head: Head
    gpus: list[Gpu] = Field(min_length=1)

    def gpu_hours(self, gpu: Gpu) -> float:
        """Hours of one GPU for a million images."""
        return IMAGES / (gpu.images_per_s * self.busy_share) / 3_600

    def cost(self, gpu: Gpu, usd_per_hour: float) -> float:
        """US dollars for a million images, at a price of the machine."""
        hourly = usd_per_hour / gpu.num_gpus + self.head.usd_per_hour / self.head.num_gpus
        return self.gpu_hours(gpu) * hourly + self.usd_per_million_reads


def table(costs: Costs) -> str:
    """Lay the costs out as a Markdown table, in the file's order."""
    rows = [
        (
            gpu.name,
            gpu.machine,
            f"{gpu.images_per_s:g}",
            f"{costs.gpu_hours(gpu):.2f}",
            f"{costs.cost(gpu, gpu.usd_per_hour):.2f}",
            f"{costs.cost(gpu, gpu.spot_usd_per_hour):.2f}",
        )
        for gpu in costs.gpus
    ]
    lines = [HEADER, ("---", "---", *["--:"] * 4), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str]) -> int:
    """Print the table of a file; return the exit code."""
    file = Path(arguments[0]) if arguments else Path(__file__).with_name("costs.yaml")
    try:
        costs = Costs.model_validate(yaml.safe_load(file.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        sys.stderr.write(f"{file}: {error}\n")
        return 2
    sys.stdout.write(table(costs) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
