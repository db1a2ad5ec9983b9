"""Codes of the data plane: from the browser to the picture."""

from functools import partial

from vdi.diagnosis.code import Code
from vdi.findings.model import Severity

_code = partial(Code, layer="data plane")

DATA_PLANE = (
    _code(
        code="traefik_crds_missing",
        cluster_wide=True,
        means="The cluster does not know IngressRoute, so desktops have no address.",
        proof="The API server's response to a list of ingressroutes.traefik.io.",
        remedy="Install Traefik 3 with its CRDs.",
    ),
    _code(
        code="traefik_down",
        means="No replica of Traefik responds: no desktop can be reached.",
        proof="Ready replicas of the workload with Traefik's image. A Traefik outside the cluster is not detected.",
        remedy="Read the Events of its pods. With K3s, another LoadBalancer may use ports 80 and 443.",
        follows=("node_not_ready",),
    ),
    _code(
        code="traefik_not_watching",
        means="Traefik is configured for other namespaces than those of the sessions.",
        proof="--providers.kubernetescrd.namespaces.",
        remedy="Add the sessions' namespace to Traefik's argument, or remove the argument.",
    ),
    _code(
        code="route_missing",
        means="A desktop is ready and has no IngressRoute.",
        proof="There is no object with its name.",
        remedy="Read the log of the operator, which creates the route.",
        follows=(
            "operator_missing",
            "operator_settings_bad",
            "operator_down",
            "operator_rights_missing",
            "operator_without_lease",
            "session_unwatched",
            "traefik_crds_missing",
        ),
    ),
    _code(
        code="route_rule_v2",
        means="A rule has the syntax of Traefik 2. Traefik 3 ignores the route.",
        proof="spec.routes[].match.",
        remedy="Delete the route: the operator creates it again in the new syntax.",
        follows=("operator_missing", "operator_down", "operator_without_lease"),
    ),
    _code(
        code="route_host_mismatch",
        means="The route is for another host than the session's address: 404.",
        proof="spec.routes[].match, compared with the session's name and VDI_DOMAIN.",
        remedy="Delete the route: the operator creates it again.",
        follows=("operator_missing", "operator_down", "operator_without_lease"),
    ),
    _code(
        code="route_shadowed",
        means=(
            "Another route takes over the host of a desktop: Traefik uses the rule with the highest priority, "
            "which by default is the length of the rule."
        ),
        proof="Host, HostRegexp and priority of all routes. Ingresses are not read.",
        remedy="Give the other route another host or a lower priority, or delete it.",
    ),
    _code(
        code="route_entry_point_unknown",
        means="The route names an entry point that Traefik does not have.",
        proof="spec.entryPoints, compared with Traefik's arguments.",
        remedy="Set the chart's value traefik.entryPoint to one that exists.",
    ),
    _code(
        code="route_crosses_namespaces",
        means="The route names a Middleware or Service of another namespace, which Traefik rejects by default.",
        proof="spec.routes[], and --providers.kubernetescrd.allowCrossNamespace.",
        remedy="Create the Middleware in the sessions' namespace.",
    ),
    _code(
        code="middleware_missing",
        means="The route names a Middleware that does not exist: Traefik ignores the route.",
        proof="spec.routes[].middlewares, compared with the Middlewares.",
        remedy="Upgrade the release, which creates its Middlewares, or create this one.",
    ),
    _code(
        code="servers_transport_missing",
        means="Routes to images with `scheme: HTTPS` name a ServersTransport that does not exist: 404.",
        proof="The templates, compared with the ServersTransports of the sessions' namespace.",
        remedy="Create it again with the chart's content; an upgrade of the release does the same.",
    ),
    _code(
        code="basic_auth_secret_missing",
        means=(
            "The Secret in `basicAuthSecret` of a template does not exist or lacks a key: its desktops respond "
            "with 503."
        ),
        proof="The Secret's keys, in the namespace of the sessions. Its values are not stored.",
        remedy="Create the Secret with the user name and the password that the image expects.",
    ),
    _code(
        code="service_missing",
        means="A desktop is ready and has no Service.",
        proof="There is no object with its name.",
        remedy="Read the log of the operator, which creates the Service.",
        follows=(
            "operator_missing",
            "operator_settings_bad",
            "operator_down",
            "operator_rights_missing",
            "operator_without_lease",
            "session_unwatched",
        ),
    ),
    _code(
        code="service_without_endpoints",
        means="The Service has no pod, although the desktop is ready: its selector or the pod's labels were changed.",
        proof="The Service's EndpointSlices.",
        remedy="Delete the Service: the operator creates it again.",
        follows=("operator_missing", "operator_down", "operator_without_lease"),
    ),
    _code(
        code="certificate_missing",
        means="Routes name a TLS Secret that does not exist or contains no certificate.",
        proof="The Secret (only its certificate is read, never its key).",
        remedy="Create the Secret in the routes' namespace, that of sessions or gateway: Traefik reads no other.",
    ),
    _code(
        code="certificate_expired",
        means="The certificate of desktops or portal has expired or is not valid yet: browsers refuse to connect.",
        proof="notBefore and notAfter.",
        remedy="Renew the certificate; cert-manager does so automatically.",
    ),
    _code(
        code="certificate_expires_soon",
        severity=Severity.WARNING,
        means="The certificate of desktops or portal expires within 14 days.",
        proof="notAfter.",
        remedy="Renew the certificate; if cert-manager should have, check its Certificate.",
    ),
    _code(
        code="certificate_for_other_names",
        means="The certificate does not cover the hosts of desktops or portal. A wildcard covers one label only.",
        proof="subjectAltName, compared with the hosts of the routes.",
        remedy="Get a wildcard certificate for the domain.",
    ),
    _code(
        code="library_missing",
        means=(
            'The image lacks a library. The desktop may still be ready: its page then shows "Waiting for stream" '
            "forever."
        ),
        proof="The desktop's log: cannot open shared object file.",
        remedy="Add the package with this library to the image, and name the new image in the template.",
    ),
    _code(
        code="desktop_port_wrong",
        means=(
            "The desktop listens on another port than its template has, so its probe never succeeds: first its "
            "start is slow, then it is restarted repeatedly."
        ),
        proof="spec.port of the template, compared with its SELKIES_PORT or with the port in the desktop's log.",
        remedy="Set the template's port to the one that the desktop listens on.",
    ),
    _code(
        code="shm_too_small",
        severity=Severity.WARNING,
        means=(
            "A template's /dev/shm is too small: browsers crash, and Selkies may not have enough memory for a picture."
        ),
        proof="spec.shmSize of the template.",
        remedy="Raise spec.shmSize (default: 1Gi). It counts towards the desktop's memory.",
    ),
    _code(
        code="home_full",
        means="The desktop cannot write, because its home or its node's disk is full.",
        proof="The desktop's log: No space left on device.",
        remedy="Delete files in the home, or give it a larger volume. With local-path, the node's disk is full.",
        follows=("node_under_pressure",),
    ),
    _code(
        code="home_not_writable",
        means=(
            "The desktop runs as user 1000 and cannot write to its home: the folder belongs to root, or has mode 0700."
        ),
        proof="The desktop's log: Permission denied.",
        remedy="On the node, make user 1000 the owner of the folder. fsGroup has no effect on hostPath volumes.",
        follows=("local_path_mode_wrong",),
    ),
    _code(
        code="selkies_error",
        means="Selkies cannot create a picture, or cannot serve it.",
        proof="The desktop's log.",
        remedy="Read the complete log.",
        follows=("home_full", "shm_too_small"),
    ),
    _code(
        code="encoder_obsolete",
        severity=Severity.WARNING,
        means="A template names an encoder of Selkies 1. Selkies 2 ignores it and chooses its own.",
        proof="SELKIES_ENCODER in the template.",
        remedy="Set h264enc (GPU if available), h264enc-striped (CPU), openh264enc or jpeg.",
    ),
)
