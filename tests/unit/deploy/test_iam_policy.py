"""The policy that ships allows each request that raycap makes of S3, and no more."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

NEEDS = {
    "list_objects_v2": {"s3:ListBucket"},
    "get_object": {"s3:GetObject"},
    "head_object": {"s3:GetObject"},
    # With If-Match, too, the present object may be looked at.
    "put_object": {"s3:PutObject", "s3:GetObject"},
    "upload_fileobj": {"s3:PutObject", "s3:AbortMultipartUpload"},
    "delete_object": {"s3:DeleteObject"},
    "delete_objects": {"s3:DeleteObject"},
}
"""Permissions that each method of boto3's client needs, by the S3 user guide."""


@pytest.fixture(scope="module")
def statements() -> list[dict[str, Any]]:
    policy = json.loads((ROOT / "deploy/iam-policy.json").read_text())
    assert policy["Version"] == "2012-10-17"
    found: list[dict[str, Any]] = policy["Statement"]
    return found


def actions(statement: dict[str, Any]) -> set[str]:
    found = statement["Action"]
    return {found} if isinstance(found, str) else set(found)


def methods_called() -> set[str]:
    """Methods of a client of S3 that the code names."""
    called = set()
    for file in (ROOT / "raycap/storage").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                if owner in ("client", "_client", "_uploader"):
                    called.add(node.attr)
    return called


def test_it_allows_each_request_that_raycap_makes_and_no_other(
    statements: list[dict[str, Any]],
) -> None:
    called = methods_called()
    assert called <= NEEDS.keys(), "a new request: say what it needs, and allow it"
    assert called
    needed = set().union(*(NEEDS[name] for name in called))
    assert set().union(*map(actions, statements)) == needed


def test_nothing_but_the_output_can_be_changed(statements: list[dict[str, Any]]) -> None:
    for statement in statements:
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in actions(statement))
        resource = statement["Resource"]
        assert resource.startswith(("arn:aws:s3:::SOURCE-BUCKET", "arn:aws:s3:::OUTPUT-BUCKET"))
        if actions(statement) - {"s3:ListBucket", "s3:GetObject"}:
            assert resource == "arn:aws:s3:::OUTPUT-BUCKET/OUTPUT-PREFIX/*"


def test_listing_is_of_the_two_prefixes_only(statements: list[dict[str, Any]]) -> None:
    listing = [item for item in statements if actions(item) == {"s3:ListBucket"}]
    assert len(listing) == 2
    for statement in listing:
        name = statement["Resource"].removeprefix("arn:aws:s3:::").removesuffix("-BUCKET")
        prefixes = statement["Condition"]["StringLike"]["s3:prefix"]
        assert prefixes == [f"{name}-PREFIX", f"{name}-PREFIX/*"]
