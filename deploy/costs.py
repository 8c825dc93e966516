"""Print the cost of captioning one million images, by GPU, as a Markdown table.

    python deploy/costs.py [FILE]

FILE holds throughputs, prices and the formula; the default is `costs.yaml` next to this script.
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
    """The head node, shared by all GPUs of a cluster."""

    usd_per_hour: float = Field(ge=0)
    num_gpus: int = Field(gt=0)


class Gpu(_Strict):
    """A GPU model and the machine type that has it."""

    name: str
    machine: str
    num_gpus: int = Field(gt=0)
    images_per_s: float = Field(gt=0)
    usd_per_hour: float = Field(gt=0)
    spot_usd_per_hour: float = Field(gt=0)


class Costs(_Strict):
    """The content of `costs.yaml`."""

    busy_share: float = Field(gt=0, le=1)
    usd_per_million_reads: float = Field(ge=0)
    head: Head
    gpus: list[Gpu] = Field(min_length=1)

    def gpu_hours(self, gpu: Gpu) -> float:
        """Return the hours that one GPU needs for one million images."""
        return IMAGES / (gpu.images_per_s * self.busy_share) / 3_600

    def cost(self, gpu: Gpu, usd_per_hour: float) -> float:
        """Return the cost of one million images in US dollars, at a price per machine and hour."""
        hourly = usd_per_hour / gpu.num_gpus + self.head.usd_per_hour / self.head.num_gpus
        return self.gpu_hours(gpu) * hourly + self.usd_per_million_reads


def table(costs: Costs) -> str:
    """Format the costs as a Markdown table, in the order of the file."""
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
    """Print the table for a file and return the exit code."""
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
