"""Says in a template's status what of it has no effect: people read that with `kubectl describe`, before the doctor."""

import msgspec

from vdi.api.template import VDITemplate
from vdi.operator.context import ClusterContext
from vdi.operator.kinds import TEMPLATES
from vdi.session.streaming import SETTINGS_IGNORED, settings_ignored


class TemplateWarnings:
    """Keeps one condition of each template; the others are other writers'."""

    def __init__(self, cluster: ClusterContext) -> None:
        self._client = cluster.client
        self._caches = cluster.caches
        self._clock = cluster.clock

    async def update(self, template: VDITemplate) -> VDITemplate:
        """Write the condition if it says something new; gives the template as it then is. Raises KubeError."""
        status, meta = template.status, template.metadata
        warning = settings_ignored(template, self._clock.now())
        others = tuple(condition for condition in status.conditions if condition.type != SETTINGS_IGNORED)
        conditions = (*others, warning) if warning else others
        if conditions == status.conditions:
            return template
        content = {"observedGeneration": meta.generation, "conditions": msgspec.to_builtins(conditions)}
        patch = {"metadata": {"uid": meta.uid}, "status": content}
        patched = await self._client.patch(TEMPLATES, meta.name, patch, subresource="status", into=VDITemplate)
        self._caches.templates.remember(patched)
        return patched
