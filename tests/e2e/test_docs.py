"""The examples of the documentation do what it says; integration has those of docs/python.md."""

import pytest

from tests.support.cli import InProcess
from tests.support.documents import (
    docs_blocks,
    docs_commands,
    run,
    undescribed_files,
    write_examples,
)
from tests.support.endpoint_server import endpoint_server


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("ray_session")
def test_the_examples_of_the_docs_run_page_by_page(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_examples(cli.folder)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with endpoint_server(model=None) as (_, url):
        for command in docs_commands():
            at_server = f" --set endpoint.urls={url}" if "endpoint" in command else ""
            run(cli, command + at_server)
    for block in docs_blocks("python"):
        if block.reason is None and block.page != "python.md":
            exec(block.text, {})  # noqa: S102  the project's own documentation
    for page in ("report.html", "training.html", "search.html", "study/report.html"):
        assert "</html>" in (cli.folder / page).read_text()
    assert undescribed_files(cli.folder / "search", "| `tune` |") == []
    assert undescribed_files(cli.folder / "study", "| `study` |") == []
