"""Codes of the data plane, from the browser to the picture: routes, the gateway, graphics, and probes of them."""

from functools import partial

from vdi.diagnosis.check import Code
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

_gateway_code = partial(Code, layer="data plane")
_LOG = "The gateway's log, which reports it every minute as long as it continues."

GATEWAY = (
    _gateway_code(
        code="gateway_down",
        means=(
            "No replica of the gateway is ready: no one can log in or open a desktop. Open desktops are not affected."
        ),
        proof="status.readyReplicas of its Deployment, the state of its pods, and their logs.",
        remedy="Follow the message; the gateway's log has the details.",
        follows=("node_not_ready", "dns_down", "database_newer", "database_unreachable"),
    ),
    _gateway_code(
        code="gateway_missing",
        means="Routes of desktops refer to a gateway that does not exist: every desktop responds with 500.",
        proof="The operator has VDI_EDGE_MIDDLEWARE, but no Deployment has a container 'gateway'.",
        remedy="Upgrade the release with gateway.enabled=true.",
    ),
    _gateway_code(
        code="database_unreachable",
        means="The gateway's database does not respond: no one can log in, and no history is written.",
        proof=_LOG,
        remedy="Check the server in the url of the Secret. With SQLite, check the volume.",
        follows=("dns_down", "node_not_ready"),
    ),
    _gateway_code(
        code="history_not_written",
        means=(
            "The gateway cannot write history. Logins and desktops are not affected; history is lost if this continues."
        ),
        proof=_LOG,
        remedy="Free its disk, or make its volume or its tables writable: the message contains the database's error.",
        follows=("database_unreachable", "dns_down", "node_not_ready", "node_under_pressure"),
    ),
    _gateway_code(
        code="database_newer",
        means=(
            "A newer gateway has changed the database's tables: this version does not modify them, and does not start."
        ),
        proof="The last line of the gateway's log.",
        remedy="Run the newer version, or restore a backup from before the upgrade (docs/history.md).",
    ),
    _gateway_code(
        code="redis_unreachable",
        means=(
            "Redis does not respond: replicas of the gateway learn about revocations by the others only when they poll."
        ),
        proof=_LOG,
        remedy="Check the server in the url of the Secret.",
        follows=("dns_down", "node_not_ready"),
    ),
    _gateway_code(
        code="oidc_unreachable",
        means=(
            "The identity provider does not respond correctly: single sign-on is not possible. Local users can log in."
        ),
        proof=_LOG,
        remedy="Check gateway.oidc.issuer, the provider, and network policies.",
        follows=("dns_down",),
    ),
    _gateway_code(
        code="websocket_cut",
        severity=Severity.WARNING,
        means=(
            "The connections of a desktop repeatedly end at the same age, and its page opens new ones: the picture "
            "stops each time. Proxies and load balancers do this, often after 60 s."
        ),
        proof=(
            "The gateway is called before each connection; its log has four gaps of the same length. Timeouts of "
            "Traefik are read from its arguments (respondingTimeouts)."
        ),
        remedy=(
            "Raise the idle timeout of the proxy in front of Traefik, or of Traefik's entry point (respondingTimeouts)."
        ),
    ),
    _gateway_code(
        code="gateway_troubled",
        means="The gateway lacks something that it needs.",
        proof=_LOG,
        remedy="Follow the message; the gateway's log has the details.",
        follows=("dns_down", "database_unreachable", "operator_missing", "crd_missing"),
    ),
)

_graphics_code = partial(Code, layer="data plane", severity=Severity.WARNING)

GRAPHICS = (
    _graphics_code(
        code="graphics_capability_missing",
        means=(
            "The container runtime did not mount NVIDIA's OpenGL and Vulkan libraries: the desktop renders on the CPU."
        ),
        proof="status.graphics.reason of a desktop with a GPU: NVIDIA_DRIVER_CAPABILITIES lacks `graphics`.",
        remedy="Add `graphics` to NVIDIA_DRIVER_CAPABILITIES of the template, or remove the variable there.",
        follows=("gpu_runtime_class_unset",),
    ),
    _graphics_code(
        code="graphics_driver_not_loadable",
        means="NVIDIA's driver library cannot be loaded in the desktop's container: it renders on the CPU.",
        proof="status.graphics.reason, and the loader's error in status.graphics.message.",
        remedy="Restart the desktop after an upgrade of the driver; otherwise update the NVIDIA Container Toolkit.",
        follows=("gpu_runtime_class_unset", "gpu_toolkit_paths_not_k3s"),
    ),
    _graphics_code(
        code="graphics_in_software",
        means="A desktop of a template with a GPU renders OpenGL on the CPU.",
        proof="status.graphics.renderer and its reason, which the desktop's image determines at the start.",
        remedy=(
            "See the reason in the desktop's log. Intel and AMD GPUs need `spec.streaming.display: Auto`; rendering on "
            "MIG devices is not supported."
        ),
        follows=("gpu_runtime_class_unset", "gpu_runtime_class_missing", "gpu_toolkit_paths_not_k3s"),
    ),
    _graphics_code(
        code="gpu_encoder_missing",
        means=(
            "A GPU for computing (A100, A30, H100, H200) has no NVENC: desktops on it render on the GPU and encode "
            "on the CPU."
        ),
        proof="The node's label nvidia.com/gpu.product, and a template whose desktops have a GPU.",
        remedy="Use GPUs with NVENC for desktops, such as L4, L40S, A10, A16, T4 or RTX.",
    ),
)

_probe_code = partial(Code, layer="probes")
_FROM_HERE = "Tried from the machine that runs the doctor, with the session's own address."
_WAY_IN = ("node_not_ready", "traefik_down", "traefik_crds_missing", "gateway_down", "gateway_missing")
_ROUTE = (
    *("route_missing", "route_rule_v2", "route_host_mismatch", "route_entry_point_unknown", "middleware_missing"),
    *("route_crosses_namespaces", "traefik_not_watching", "service_missing", "service_without_endpoints"),
)

PROBES = (
    _probe_code(
        code="probe_name_not_found",
        means="The name of a desktop cannot be resolved in DNS.",
        proof=_FROM_HERE,
        remedy="Create a wildcard DNS record for the sessions' domain that points to Traefik.",
    ),
    _probe_code(
        code="probe_unreachable",
        means="Nothing listens at the address of a desktop's name.",
        proof=_FROM_HERE,
        remedy="Check Traefik's Service and entry point, the firewall, and the chart's urlPort.",
        follows=_WAY_IN,
    ),
    _probe_code(
        code="probe_certificate_refused",
        means="The certificate of a desktop is not trusted here, has expired, or is for another name.",
        proof=_FROM_HERE,
        remedy="Install a wildcard certificate that browsers trust, or your own authority in the browsers.",
        severity=Severity.WARNING,
        follows=("certificate_missing", "certificate_expired", "certificate_for_other_names"),
    ),
    _probe_code(
        code="probe_not_routed",
        means="Traefik responds with 404: it has no route for the name of a running desktop.",
        proof=_FROM_HERE,
        remedy="Check the session's IngressRoute and Traefik's log.",
        follows=(*_WAY_IN, *_ROUTE),
    ),
    _probe_code(
        code="probe_bad_answer",
        means="A desktop's address responds with a server error.",
        proof=_FROM_HERE,
        remedy="Check the desktop for 502 to 504, the gateway for 500.",
        follows=(*_WAY_IN, *_ROUTE, "dns_down", "network_policy_blocks", "database_unreachable"),
    ),
    _probe_code(
        code="probe_websocket_refused",
        means="The page of a desktop responds, but its WebSocket does not: there is no picture.",
        proof=f"{_FROM_HERE} The gateway admits no one without a token: its refusal is the right response.",
        remedy="Let the proxy in front of Traefik pass upgrades (nginx: proxy_http_version 1.1, Upgrade, Connection).",
        follows=(*_WAY_IN, *_ROUTE),
    ),
    _probe_code(
        code="probe_desktop_silent",
        means="A desktop that counts as ready does not respond on its port.",
        proof="Its health page, requested through the API server.",
        remedy="Read the desktop's log, then restart the session.",
        follows=("library_missing", "selkies_error", "network_policy_blocks", "node_not_ready"),
    ),
    _probe_code(
        code="probe_pod_failed",
        means="A pod of the template's image with an empty volume fails at a step of a desktop's start.",
        proof=(
            "A pod that the probe creates and removes: it pulls the image, mounts a volume, writes and resolves a name."
        ),
        remedy="Follow the message.",
        follows=(
            *("image_unavailable", "storage_class_missing", "home_not_provisioned", "provisioner_silent", "dns_down"),
            *("node_not_ready", "pod_refused", "room_insufficient", "node_under_pressure"),
        ),
    ),
    _probe_code(
        code="network_policy_not_enforced",
        means="The cluster has NetworkPolicies but does not enforce them: each desktop can reach every other pod.",
        proof="A connection that the policies deny, from the probe's pod with a desktop's labels.",
        remedy="Install a network plugin that enforces them (docs/network.md).",
        severity=Severity.WARNING,
    ),
    _probe_code(
        code="probe_turn_refused",
        means=(
            "The TURN server does not allocate a relay address, or does not respond: WebRTC does not work through "
            "firewalls."
        ),
        proof="An allocation with credentials like the gateway's, from the machine that runs the doctor.",
        remedy="Open port 3478 over UDP. After a 401, upgrade the release: both sides then share a secret.",
        severity=Severity.WARNING,
        follows=("turn_down", "dns_down"),
    ),
    _probe_code(
        code="turn_peers_denied",
        means="The TURN server relays only to allowed addresses, which do not include a desktop's address.",
        proof="allowed-peer-ip of its configuration, compared with the addresses of desktops' pods.",
        remedy="Add the range of the pods to the chart's coturn.allowedPeers (K3s: 10.42.0.0/16).",
        severity=Severity.WARNING,
    ),
    _probe_code(
        code="gpu_memory_full",
        means=(
            "The memory of a shared GPU is nearly used up. Slicing shares the time, not the memory: the next desktop "
            "that needs more fails."
        ),
        proof="The metrics of NVIDIA's DCGM exporter, requested through the API server.",
        remedy="Suspend a desktop on that node, or share its GPUs among fewer desktops.",
        severity=Severity.WARNING,
    ),
)
