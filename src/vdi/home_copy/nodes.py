"""On which nodes the volume of an imported home may be created: those that can run the desktops of its template.

The pod that fills the home has the template's placement. It requests no GPU, which it would have to wait for, and could
be the first consumer of the volume on a node without any.
"""

from typing import Any

from vdi.api.template import VDITemplate
from vdi.home_copy.errors import CopyRefusedError
from vdi.home_copy.runner import CopyRun
from vdi.kube.errors import Forbidden
from vdi.kube.resource import DEPLOYMENTS, NODES
from vdi.operator.settings import read_settings
from vdi.operator.variables import SettingsError
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.observed import Node
from vdi.session.prepull import can_run


async def find_nodes(run: CopyRun, template: VDITemplate) -> tuple[str, ...]:
    """Names of the nodes; empty: desktops of the template request no GPU, and the placement says it all.

    Raises CopyRefusedError where no node can run them, and KubeError.
    """
    gpus = template.spec.resources.default_gpu
    if not gpus:
        return ()
    resource = await _read_gpu_resource(run)
    nodes = await run.client.list(NODES, into=Node)
    names = tuple(sorted(node.metadata.name for node in nodes if can_run(node, template, resource)))
    if not names:
        raise CopyRefusedError(
            f"no node can run desktops of the template {template.metadata.name!r} now ({gpus} {resource}, "
            "spec.placement), and the volume of the home must be created where they run. Import the home when such a "
            "node is ready: kubectl get nodes"
        )
    return names


async def _read_gpu_resource(run: CopyRun) -> str:
    """The setting of the operator whose sessions these are; the default where its Deployment is not seen."""
    try:
        deployments = await run.client.list(DEPLOYMENTS, into=dict[str, Any])
    except Forbidden:
        return ClusterSettings().gpu_resource
    for deployment in deployments:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            environment = {variable["name"]: variable.get("value", "") for variable in container.get("env") or ()}
            namespaces = environment.get("VDI_NAMESPACE", "").split(",")
            if container["name"] == "operator" and run.namespace in namespaces:
                try:
                    return read_settings(environment).cluster.gpu_resource
                except SettingsError:  # it does not start; `vdi doctor` reports it
                    return ClusterSettings().gpu_resource
    return ClusterSettings().gpu_resource
