"""Another kube-proxy in the place of ours: the command that starts it on a node.

Owns the placeholders of that command. Must not know what they are replaced with.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from testbed.spec.base import Model
from testbed.spec.fields import EXTERNAL, AsList, ExternalName, Mode
from testbed.spec.mistakes import Wrong, nearest, show

PLACEHOLDERS = ("node", "config", "kubeconfig", "master", "cluster_cidr")
_DEFAULT_ARGUMENTS = ("--config={config}", "--hostname-override={node}")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


def _word(text: str) -> str:
    for name in _PLACEHOLDER.findall(text):
        if name not in PLACEHOLDERS:
            raise Wrong(f"{show(text)} has an unknown placeholder {{{name}}}", nearest(name, PLACEHOLDERS))
    return text


class ExternalProxy(Model):
    """A program that is run on every node in the place of the project's own proxy.

    `command` is the program and its arguments. Where none of them has a placeholder, `--config={config}` and
    `--hostname-override={node}` are added. `mode` is the one that its configuration file asks for.
    """

    name: ExternalName = EXTERNAL
    command: Annotated[tuple[Annotated[str, AfterValidator(_word)], ...], AsList, Field(min_length=1)]
    mode: Mode = "iptables"

    def command_line(
        self, *, node: str, config: str, kubeconfig: str, master: str, cluster_cidr: str
    ) -> list[str]:
        """The command for one node: its name, paths of the two files, the API's URL, the pods' networks."""
        values = {
            "node": node,
            "config": config,
            "kubeconfig": kubeconfig,
            "master": master,
            "cluster_cidr": cluster_cidr,
        }
        told = any(_PLACEHOLDER.search(word) for word in self.command)
        words = self.command if told else (*self.command, *_DEFAULT_ARGUMENTS)
        return [_PLACEHOLDER.sub(lambda found: values[found[1]], word) for word in words]
