"""The objects that the bench itself sends: sessions, a template, the nodes. Pure."""

from __future__ import annotations

from typing import Any

from vdi.devcluster.binaries.components import KUBERNETES

Object = dict[str, Any]

NAMESPACE = "bench"
TEMPLATE = "bench"
GPUS_PER_NODE = 8
API = "/apis/vdi.kasm.io/v1alpha1"
API_VERSION = "vdi.kasm.io/v1alpha1"
SESSION_KIND = "VDISession"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
SESSIONS = f"{API}/namespaces/{NAMESPACE}/vdisessions"
TEMPLATES = f"{API}/vditemplates"
PODS = f"{CORE}/pods"
SERVICES = f"{CORE}/services"
SECRETS = f"{CORE}/secrets"
CLAIMS = f"{CORE}/persistentvolumeclaims"
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"
ROUTES = f"/apis/traefik.io/v1alpha1/namespaces/{NAMESPACE}/ingressroutes"


def session(name: str) -> Object:
    """A session of a user of its own, so that each needs a home of its own."""
    return {
        "apiVersion": API_VERSION,
        "kind": SESSION_KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"user": f"{name}@example.com", "template": TEMPLATE},
    }


def template() -> Object:
    """The template of all sessions. No image is ever pulled: the nodes are not real."""
    return {
        "apiVersion": API_VERSION,
        "kind": "VDITemplate",
        "metadata": {"name": TEMPLATE},
        "spec": {"image": "desktop:bench", "displayName": "Benchmark"},
    }


def fake_node(number: int) -> Object:
    """A node that kwok plays, with GPUs and room for as many desktops."""
    room = {"nvidia.com/gpu": str(GPUS_PER_NODE), "pods": "110", "cpu": "128", "memory": "1Ti"}
    name = f"fake-{number}"
    return {
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
            },
        },
        "status": {
            "capacity": room,
            "allocatable": room,
            "nodeInfo": {
                "kubeletVersion": KUBERNETES,
                "kernelVersion": "6.12.0",
                "containerRuntimeVersion": "containerd://2.4.2",
            },
            "runtimeHandlers": [{"name": "", "features": {"userNamespaces": True}}],
        },
    }


def storage_class() -> Object:
    """The class that homes name. Nothing provisions volumes here; the scheduler does not wait for
    them.
    """
    return {
        "metadata": {"name": "local-path"},
        "provisioner": "rancher.io/local-path",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def operators_may_do_all(group: str) -> Object:
    """Lets every operator under test do everything: permissions are not what is measured."""
    return {
        "metadata": {"name": "bench-operators"},
        "subjects": [{"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "cluster-admin",
        },
    }


def ingress_route_crd() -> Object:
    """A stand-in for Traefik's own CRD, without its schema: nothing reads the routes here, they are
    only written.
    """
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "ingressroutes.traefik.io"},
        "spec": {
            "group": "traefik.io",
            "scope": "Namespaced",
            "names": {
                "kind": "IngressRoute",
                "plural": "ingressroutes",
                "singular": "ingressroute",
            },
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                "spec": {
                                    "type": "object",
                                    "x-kubernetes-preserve-unknown-fields": True,
                                }
                            },
                        }
                    },
                }
            ],
        },
    }
