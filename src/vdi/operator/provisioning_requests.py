"""Keeps the ProvisioningRequests that `session.provisioning` plans, with their PodTemplates.

Names are decided by shape and number, and nothing is remembered: an operator that is killed at any write leaves what
the next pass completes or deletes.
"""

from collections.abc import Mapping

from vdi.kube.apply import Applier
from vdi.kube.resource import POD_TEMPLATES
from vdi.operator.bulk_writes import create_unless_exists, write_all
from vdi.operator.context import ClusterContext
from vdi.operator.kinds import PROVISIONING_REQUESTS
from vdi.session.autoscaling import AutoscalingSettings
from vdi.session.capacity_matching import Demand
from vdi.session.children.provisioning_request import build_pod_template, build_provisioning_request
from vdi.session.provisioning import PodTemplate, ProvisioningRequest, plan_requests


class ProvisioningRequests:
    """All requests of an operator."""

    def __init__(self, cluster: ClusterContext, settings: AutoscalingSettings) -> None:
        caches = cluster.caches
        self._caches = caches
        self._clock = cluster.clock
        self._settings = settings
        client = cluster.client
        self._requests = Applier(client, PROVISIONING_REQUESTS, ProvisioningRequest, caches.provisioning_requests)
        self._templates = Applier(client, POD_TEMPLATES, PodTemplate, caches.pod_templates)
        self.waits_for_renewal = False
        """Whether a request is to be replaced later, without any change that calls."""

    async def update(self, counts: Mapping[Demand, int]) -> bool:
        """Create and delete what the plan says; whether the API server refused one. Raises KubeError."""
        caches, settings = self._caches, self._settings
        plan = plan_requests(
            counts, caches.provisioning_requests.values(), caches.pod_templates.values(), self._clock.now()
        )
        self.waits_for_renewal = plan.lapsed
        # A request without its PodTemplate fails for good.
        templates_refused = await write_all(
            *(
                create_unless_exists(
                    self._templates, build_pod_template(demand, settings.namespace, image=settings.image)
                )
                for demand in plan.create_templates
            ),
            kind="PodTemplate",
        )
        if templates_refused:
            return True
        refused = await write_all(
            *(self._requests.delete(request) for request in plan.delete),
            *(
                create_unless_exists(self._requests, build_provisioning_request(demand, name, settings.namespace))
                for name, demand in plan.create
            ),
            kind="ProvisioningRequest",
        )
        await write_all(*(self._templates.delete(template) for template in plan.delete_templates), kind="PodTemplate")
        return refused
