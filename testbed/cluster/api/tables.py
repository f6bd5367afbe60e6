"""Objects as the rows of a table: the columns that kubectl's users know.

Pure: a record in, cells out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import orjson

from testbed.cluster.api import failures
from testbed.cluster.api.columns import COLUMNS, DEFAULT_COLUMNS
from testbed.cluster.resources import Resource
from testbed.cluster.store import Object, Record

VERSIONS = ("v1", "v1beta1")
INCLUDES = ("None", "Metadata", "Object")


class TableForm(NamedTuple):
    """How a client wants its tables: the version of the Table kind, and what of each object comes along."""

    version: str
    include: str

    @classmethod
    def wanted(cls, accept: str, query: Mapping[str, str]) -> Self | None:
        """Return the form that an Accept header asks for first, or None for plain objects."""
        parameters = dict(
            item.strip().partition("=")[::2] for item in accept.partition(",")[0].split(";")[1:]
        )
        if parameters.get("as") != "Table" or parameters.get("v") not in VERSIONS:
            return None
        include = query.get("includeObject", "Metadata")
        if include not in INCLUDES:
            raise failures.bad_request(f"includeObject: Unsupported value: {include!r}")
        return cls(parameters["v"], include)

    def encode(
        self, resource: Resource, records: Sequence[Record], version: int, metadata: Object | None = None
    ) -> bytes:
        """Return the encoded Table of `records`."""
        columns = COLUMNS.get(resource, DEFAULT_COLUMNS)
        objects = [record.parsed() for record in records]
        rows = [
            {"cells": [column.cell(obj) for column in columns], "object": self._shown(obj)} for obj in objects
        ]
        return orjson.dumps(
            {
                "kind": "Table",
                "apiVersion": f"meta.k8s.io/{self.version}",
                "metadata": {"resourceVersion": str(version), **(metadata or {})},
                "columnDefinitions": [column.definition for column in columns],
                "rows": rows,
            }
        )

    def _shown(self, obj: Object) -> Object | None:
        if self.include == "Object":
            return obj
        if self.include == "None":
            return None
        kind = {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{self.version}"}
        return {**kind, "metadata": obj["metadata"]}
