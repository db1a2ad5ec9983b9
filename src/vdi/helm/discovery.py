"""Discovery at the API server: its version, its kinds, and the rights of our account."""

from dataclasses import dataclass, field
from typing import Any

from vdi.kube.errors import NotFound
from vdi.kube.resource import Resource
from vdi.kube.transport import Client


class _Page(Resource):
    """A page of the API that is about the API, and no object."""

    def path(
        self,
        namespace: str | None = None,  # noqa: ARG002
        name: str | None = None,
        subresource: str | None = None,  # noqa: ARG002
    ) -> str:
        return f"/{name}"


_ABOUT = _Page("", "", "", "", namespaced=False)
_REVIEWS = Resource(
    "authorization.k8s.io",
    "v1",
    "selfsubjectaccessreviews",
    "SelfSubjectAccessReview",
    namespaced=False,
)


async def server_version(client: Client) -> str:
    """The version of the API server, such as `v1.34.4+k3s1`."""
    return str((await client.get(_ABOUT, "version", into=dict[str, Any]))["gitVersion"])


async def api_versions(client: Client) -> tuple[str, ...]:
    """All groups with their versions: `apps/v1`, `traefik.io/v1alpha1`, ..."""
    groups = (await client.get(_ABOUT, "apis", into=dict[str, Any]))["groups"]
    return tuple(version["groupVersion"] for group in groups for version in group["versions"])


@dataclass
class Kinds:
    """Kind -> resource, asked of the API server once for each group and version."""

    client: Client
    _known: dict[str, dict[str, Resource]] = field(default_factory=dict)

    async def find(self, api_version: str, kind: str) -> Resource | None:
        """The resource of a kind; None: the API server does not know it."""
        if api_version not in self._known:
            self._known[api_version] = await self._read(api_version)
        return self._known[api_version].get(kind)

    async def _read(self, api_version: str) -> dict[str, Resource]:
        group, _, version = api_version.rpartition("/")
        page = f"apis/{api_version}" if group else f"api/{version}"
        try:
            listed = await self.client.get(_ABOUT, page, into=dict[str, Any])
        except NotFound:
            return {}
        return {
            kind["kind"]: Resource(
                group, version, kind["name"], kind["kind"], namespaced=kind["namespaced"]
            )
            for kind in listed["resources"]
            if "/" not in kind["name"]  # a subresource
        }


async def may(client: Client, verb: str, resource: Resource, namespace: str | None) -> bool:
    """Whether our account may do that, as the API server's authorizer says."""
    attributes = {"verb": verb, "group": resource.group, "resource": resource.plural}
    if resource.namespaced and namespace:
        attributes["namespace"] = namespace
    review = {
        "apiVersion": _REVIEWS.api_version,
        "kind": _REVIEWS.kind,
        "spec": {"resourceAttributes": attributes},
    }
    answer = await client.create(_REVIEWS, review, into=dict[str, Any])
    return bool(answer["status"].get("allowed"))
