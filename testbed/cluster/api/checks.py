"""Collecting every mistake in an object, in Kubernetes' words, and the formats of names.

Knows formats, not kinds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import orjson

from testbed.cluster.api import failures
from testbed.cluster.api.failures import Cause
from testbed.cluster.resources import Resource
from testbed.cluster.selectors import is_label_key, is_label_value

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SERVICE_LABEL = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9](?:-?[a-z0-9])*")
_ANNOTATIONS_LIMIT = 256 * 1024  # bytes, Kubernetes' TotalAnnotationSizeLimitB

PROTOCOLS = ("TCP", "UDP", "SCTP")

_RULES = {
    "label": (_LABEL, "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"),
    "service": (
        _SERVICE_LABEL,
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
        "alphabetic character, and end with an alphanumeric character",
    ),
    "subdomain": (
        _SUBDOMAIN,
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
        "and must start and end with an alphanumeric character",
    ),
}


class Mistakes:
    """The mistakes of one object; nothing is raised before all are known."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def required(self, path: str, why: str = "") -> None:
        self._add(path, "FieldValueRequired", f"Required value{': ' + why if why else ''}")

    def invalid(self, path: str, value: object, why: str) -> None:
        self._add(path, "FieldValueInvalid", f"Invalid value: {_shown(value)}: {why}")

    def unsupported(self, path: str, value: object, supported: Collection[str]) -> None:
        choices = ", ".join(f'"{choice}"' for choice in supported)
        self._add(
            path,
            "FieldValueNotSupported",
            f"Unsupported value: {_shown(value)}: supported values: {choices}",
        )

    def duplicate(self, path: str, value: object) -> None:
        self._add(path, "FieldValueDuplicate", f"Duplicate value: {_shown(value)}")

    def forbidden(self, path: str, why: str) -> None:
        self._add(path, "FieldValueForbidden", f"Forbidden: {why}")

    def _add(self, path: str, reason: str, message: str) -> None:
        self.causes.append(Cause(path, reason, message))

    def raise_if_any(self, resource: Resource, name: str) -> None:
        """Raise ApiError (422) when there is any mistake."""
        if self.causes:
            raise failures.invalid(resource, name, self.causes)

    def choice(self, path: str, value: object, supported: Collection[str]) -> None:
        """Require one of `supported`, when there is a value."""
        if value and value not in supported:
            self.unsupported(path, value, supported)

    def number(self, path: str, value: int, low: int, high: int) -> None:
        """Require a number between `low` and `high`, both inclusive."""
        if not low <= value <= high:
            self.invalid(path, value, f"must be between {low} and {high}, inclusive")

    def port_name(self, path: str, value: str) -> None:
        """Require an IANA service name, as container ports and named target ports are."""
        if len(value) > 15 or not _PORT_NAME.fullmatch(value):
            self.invalid(path, value, "must be an IANA service name: at most 15 of a-z, 0-9 and inner '-'")

    def dns_label(self, path: str, value: str) -> None:
        if not _LABEL.fullmatch(value):
            self.invalid(path, value, _RULES["label"][1])

    def address(self, path: str, value: str) -> None:
        if not is_address(value):
            self.invalid(path, value, "must be a valid IP address")

    def network(self, path: str, value: str) -> None:
        try:
            ip_network(value.strip(), strict=False)
        except ValueError:
            self.invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24)")
        else:
            if "/" not in value:
                self.invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24)")

    def name(self, path: str, value: str, rule: str) -> None:
        """Require a name of the format `rule`: subdomain, label or service."""
        pattern, why = _RULES[rule]
        if len(value) > 253 or not pattern.fullmatch(value):
            self.invalid(path, value, why)

    def labels(self, path: str, labels: Mapping[str, str]) -> None:
        for key, value in labels.items():
            if not is_label_key(key):
                self.invalid(path, key, "name part must consist of alphanumeric characters, '-', '_' or '.'")
            if not is_label_value(value):
                self.invalid(
                    path,
                    value,
                    "a valid label must be an empty string or consist of at most 63 "
                    "alphanumeric characters, '-', '_' or '.', starting and ending alphanumeric",
                )

    def annotations(self, path: str, annotations: Mapping[str, str]) -> None:
        size = 0
        for key, value in annotations.items():
            size += len(key) + len(value)
            if not is_label_key(key.lower()):
                self.invalid(path, key, "name part must consist of alphanumeric characters, '-', '_' or '.'")
        if size > _ANNOTATIONS_LIMIT:
            self._add(path, "FieldValueTooLong", f"Too long: may not be more than {_ANNOTATIONS_LIMIT} bytes")


def is_address(value: str) -> bool:
    """Say whether `value` is an IPv4 or IPv6 address."""
    try:
        ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def family_of(address: str) -> str:
    """Return `IPv4` or `IPv6` for a valid address."""
    return "IPv6" if ":" in address else "IPv4"


def _shown(value: Any) -> str:
    return orjson.dumps(value).decode()
