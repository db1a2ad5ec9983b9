"""Codes of the data plane, from the browser to the picture: routes, the gateway, graphics, and
probes of them.
"""

from functools import partial

from vdi.doctor.codes.control_plane import NO_OPERATOR, RELEASE_DIFFERS
from vdi.findings.model import Severity
from vdi.snapshot.check import Code

_code = partial(Code, layer="data plane")
_warning = partial(_code, severity=Severity.WARNING)
_probe = partial(Code, layer="probes")
_probe_warning = partial(_probe, severity=Severity.WARNING)

DATA_PLANE = (
    _code(
        "traefik_crds_missing",
        "The cluster does not know IngressRoute, so desktops have no address.",
        "The API server's response to a list of ingressroutes.traefik.io.",
        "Install Traefik 3 with its CRDs.",
        cluster_wide=True,
    ),
    _code(
        "traefik_down",
        "No replica of Traefik responds: no desktop can be reached.",
        "Ready replicas of the workload with Traefik's image. A Traefik outside the cluster is not"
        " detected.",
        "Read the Events of its pods. With K3s, another LoadBalancer may use ports 80 and 443.",
        follows=("node_not_ready",),
    ),
    _code(
        "traefik_not_watching",
        "Traefik is configured for other namespaces than those of the sessions.",
        "--providers.kubernetescrd.namespaces.",
        "Add the sessions' namespace to Traefik's argument, or remove the argument.",
    ),
    _code(
        "route_missing",
        "A desktop that is ready, or the gateway, has no IngressRoute.",
        "There is no object with its name, or none that leads to the gateway.",
        "Read the log of the operator, which creates routes of desktops. The gateway's comes with"
        " the chart.",
        follows=(RELEASE_DIFFERS, *NO_OPERATOR, "traefik_crds_missing"),
    ),
    _code(
        "route_host_mismatch",
        "The route's rule does not match the session's address, or has the syntax of Traefik 2:"
        " 404.",
        "spec.routes[].match, compared with the session's name and VDI_DOMAIN.",
        "Restart the operator, which corrects routes.",
        follows=NO_OPERATOR,
    ),
    _code(
        "route_shadowed",
        "Another route takes over a desktop's host: Traefik uses the highest priority, by default"
        " the longest rule.",
        "Hosts, paths and priorities of the IngressRoutes and Ingresses of all namespaces, which"
        " share one table.",
        "Give the other route another host or a lower priority, or delete it.",
    ),
    _code(
        "route_entry_point_unknown",
        "The route names an entry point that Traefik does not have.",
        "spec.entryPoints, compared with Traefik's arguments.",
        "Set the chart's value traefik.entryPoint to one that exists.",
    ),
    _code(
        "middleware_missing",
        "The route names a Middleware that does not exist, or is in another namespace: Traefik"
        " ignores the route.",
        "spec.routes[].middlewares, compared with the Middlewares.",
        "Upgrade the release, which creates its Middlewares, or create this one.",
        follows=(RELEASE_DIFFERS,),
    ),
    _code(
        "servers_transport_missing",
        "A route, such as those to images with `scheme: HTTPS`, names a ServersTransport that does"
        " not exist: 404.",
        "spec.routes[].services[].serversTransport, compared with the ServersTransports.",
        "Upgrade the release, which creates the chart's again, or create this one.",
        follows=(RELEASE_DIFFERS,),
    ),
    _code(
        "basic_auth_secret_missing",
        "The Secret in `basicAuthSecret` of a template does not exist or lacks a key: its desktops"
        " respond with 503.",
        "The Secret's keys, in the namespace of the sessions. Its values are not stored.",
        "Create the Secret with the user name and the password that the image expects.",
    ),
    _code(
        "service_missing",
        "A desktop is ready and has no Service.",
        "There is no object with its name.",
        "Read the log of the operator, which creates the Service.",
        follows=(RELEASE_DIFFERS, *NO_OPERATOR),
    ),
    _code(
        "service_without_endpoints",
        "The Service does not lead to the desktop, although that is ready: its selector or its"
        " ports were changed.",
        "The Service's EndpointSlices, and the ports of the pod.",
        "Restart the operator, which corrects Services.",
        follows=(RELEASE_DIFFERS, "control_plane_silent", *NO_OPERATOR),
    ),
    _code(
        "backend_unreachable",
        "A Service that every request needs, such as the gateway's, leads to no ready pod, or"
        " does not exist: desktops respond with 500.",
        "The Services that routes and Middlewares (forwardAuth) name, and Traefik's, with their"
        " EndpointSlices.",
        "Make the Service's selector and ports those of its pods. `vdi upgrade` creates a missing"
        " one again.",
        follows=(RELEASE_DIFFERS, "control_plane_silent", "node_not_ready"),
        cluster_wide=True,
    ),
    _warning(
        "client_certificate_demanded",
        "Traefik demands a client certificate of every browser.",
        "TLSOptions named `default`, which all routes have, or by our routes.",
        "Remove clientAuth, unless all users have such a certificate.",
        cluster_wide=True,
    ),
    _code(
        "certificate_missing",
        "Routes name a TLS Secret that does not exist or contains no certificate.",
        "The Secret (only its certificate is read, never its key).",
        "Create the Secret in the routes' namespace, that of sessions or gateway: Traefik reads no"
        " other.",
    ),
    _code(
        "certificate_expired",
        "The certificate of desktops or portal has expired or is not valid yet: browsers refuse to"
        " connect.",
        "notBefore and notAfter.",
        "Renew the certificate; cert-manager does so automatically.",
    ),
    _warning(
        "certificate_expires_soon",
        "The certificate of desktops or portal expires within 14 days.",
        "notAfter.",
        "Renew the certificate; if cert-manager should have, check its Certificate.",
    ),
    _code(
        "certificate_for_other_names",
        "The certificate does not cover the hosts of desktops or portal. A wildcard covers one"
        " label only.",
        "subjectAltName, compared with the hosts of the routes.",
        "Get a wildcard certificate for the domain.",
    ),
    _code(
        "library_missing",
        'The image lacks a library. The desktop may still be ready: its page then shows "Waiting'
        ' for stream" forever.',
        "The desktop's log: cannot open shared object file.",
        "Add the package with this library to the image.",
    ),
    _code(
        "desktop_port_wrong",
        "The desktop listens on another port than its template has, so its probe never succeeds.",
        "spec.port of the template, compared with its SELKIES_PORT or with the port in the"
        " desktop's log.",
        "Set the template's port to the one that the desktop listens on.",
    ),
    _warning(
        "shm_too_small",
        "A template's /dev/shm is too small: browsers crash, and Selkies may have no picture.",
        "spec.shmSize of the template.",
        "Raise spec.shmSize (default: 1Gi). It counts towards the desktop's memory.",
    ),
    _code(
        "home_full",
        "The desktop cannot write, because its home or its node's disk is full.",
        "The desktop's log: No space left on device.",
        "Delete files in the home, or give it a larger volume. With local-path, the node's disk is"
        " full.",
        follows=("node_under_pressure",),
    ),
    _code(
        "home_not_writable",
        "The desktop runs as user 1000 and cannot write to its home: the folder belongs to root, or"
        " has mode 0700.",
        "The desktop's log: Permission denied.",
        "On the node, make user 1000 the owner of the folder. fsGroup has no effect on hostPath"
        " volumes.",
        follows=("local_path_mode_wrong",),
    ),
    _code(
        "selkies_error",
        "Selkies cannot create a picture, or cannot serve it.",
        "The desktop's log.",
        "Read the complete log.",
        follows=("home_full", "shm_too_small", "desktop_out_of_memory"),
    ),
    _warning(
        "encoder_obsolete",
        "A template names an encoder of Selkies 1. Selkies 2 ignores it and chooses its own.",
        "SELKIES_ENCODER in the template.",
        "Set h264enc (GPU if available), h264enc-striped (CPU), openh264enc or jpeg.",
    ),
)

# Reasons why a program does not reach its servers.
_NETWORK = ("dns_down", "kube_proxy_down", "network_policy_blocks", "probe_network_broken")
_LOG = "The gateway's log, which reports it every minute as long as it continues."

GATEWAY = (
    _code(
        "gateway_down",
        "No replica of the gateway is ready: no one can log in or open a desktop.",
        "status.readyReplicas of its Deployment, the state of its pods, and their logs.",
        "Follow the message.",
        follows=(
            RELEASE_DIFFERS,
            "node_not_ready",
            *_NETWORK,
            "database_newer",
            "database_unreachable",
        ),
    ),
    _code(
        "database_unreachable",
        "The gateway's database does not respond or accepts no writes: no one can log in, and no"
        " history is written.",
        _LOG,
        "Check the server in the url of the Secret: its disk, and that it is the primary. With"
        " SQLite: the volume.",
        follows=("node_not_ready", *_NETWORK),
    ),
    _code(
        "history_not_written",
        "History is not written, and is lost if this continues.",
        _LOG,
        "Free its disk, or make its volume or its tables writable: the message contains the"
        " database's error.",
        follows=("database_unreachable", "dns_down", "node_not_ready", "node_under_pressure"),
    ),
    _code(
        "database_newer",
        "A newer gateway has changed the database's tables: this version does not modify them, and"
        " does not start.",
        "The last line of the gateway's log.",
        "Run the newer version, or restore a backup from before the upgrade (docs/history.md).",
    ),
    _code(
        "redis_unreachable",
        "Redis does not respond or accepts no writes: no one can log in, open a desktop or use"
        " the REST API.",
        _LOG,
        "Check the server in the url of the Secret: its memory, and that it is no replica.",
        follows=("node_not_ready", *_NETWORK),
    ),
    _code(
        "oidc_unreachable",
        "The identity provider does not respond correctly: single sign-on is not possible. Local"
        " users can log in.",
        _LOG,
        "Check gateway.oidc.issuer, the provider, and network policies.",
        follows=_NETWORK,
    ),
    _warning(
        "websocket_cut",
        "A proxy or load balancer ends the connections of a desktop at the same age, often 60"
        " s: the picture stops each time.",
        "The gateway is called before each connection; its log has four gaps of the same length."
        " Timeouts of Traefik are read from its arguments (respondingTimeouts).",
        "Raise the idle timeout of the proxy in front of Traefik, or of Traefik's entry point"
        " (respondingTimeouts).",
    ),
    _code(
        "gateway_troubled",
        "The gateway lacks something that it needs.",
        _LOG,
        "Follow the message.",
        follows=(
            RELEASE_DIFFERS,
            *(
                "dns_down",
                "database_unreachable",
                "operator_missing",
                "crd_missing",
                "probe_network_broken",
            ),
        ),
    ),
)

GRAPHICS = (
    _warning(
        "graphics_in_software",
        "A desktop of a template with a GPU renders OpenGL on the CPU.",
        "status.graphics.renderer and its reason, which the desktop's image determines at the"
        " start.",
        "See the reason in the desktop's log. Intel and AMD GPUs need `spec.streaming.display:"
        " Auto`, and NVIDIA's `graphics` in NVIDIA_DRIVER_CAPABILITIES; rendering on MIG devices is"
        " not supported.",
        follows=(
            "gpu_runtime_class_unset",
            "gpu_runtime_class_missing",
            "gpu_toolkit_paths_not_k3s",
        ),
    ),
    _warning(
        "gpu_encoder_missing",
        "A GPU for computing (A100, A30, H100, H200) has no NVENC: desktops on it encode on the"
        " CPU.",
        "The node's label nvidia.com/gpu.product, and a template whose desktops have a GPU.",
        "Use GPUs with NVENC for desktops, such as L4, L40S, A10, A16, T4 or RTX.",
    ),
)

_FROM_HERE = "Tried from the machine that runs the doctor, with the session's own address."
_WAY_IN = ("node_not_ready", "traefik_down", "traefik_crds_missing", "gateway_down")
_ROUTE = (
    *("route_missing", "route_host_mismatch", "route_entry_point_unknown", "middleware_missing"),
    *(
        "traefik_not_watching",
        "service_missing",
        "service_without_endpoints",
        "route_shadowed",
        "backend_unreachable",
    ),
)

PROBES = (
    _probe(
        "probe_name_not_found",
        "The name of a desktop cannot be resolved in DNS.",
        _FROM_HERE,
        "Create a wildcard DNS record for the sessions' domain that points to Traefik.",
    ),
    _probe(
        "probe_unreachable",
        "Nothing listens at the address of a desktop's name.",
        _FROM_HERE,
        "Check Traefik's Service and entry point, the firewall, and the chart's urlPort.",
        follows=(*_WAY_IN, "route_entry_point_unknown", "client_certificate_demanded"),
    ),
    _probe_warning(
        "probe_certificate_refused",
        "The certificate of a desktop is not trusted here, has expired, or is for another name.",
        _FROM_HERE,
        "Install a wildcard certificate that browsers trust, or your own authority in the"
        " browsers.",
        follows=("certificate_missing", "certificate_expired", "certificate_for_other_names"),
    ),
    _probe(
        "probe_bad_answer",
        "A desktop's address responds with a server error, or with 404: Traefik has no route"
        " for it.",
        _FROM_HERE,
        "Check the session's IngressRoute for 404, the gateway for 500, the desktop for 502 to"
        " 504.",
        follows=(*_WAY_IN, *_ROUTE, *_NETWORK, "database_unreachable"),
    ),
    _probe(
        "probe_websocket_refused",
        "The page of a desktop responds, but its WebSocket does not: there is no picture.",
        f"{_FROM_HERE} The gateway admits no one without a token: its refusal is the right"
        " response.",
        "Let the proxy in front of Traefik pass upgrades (nginx: proxy_http_version 1.1, Upgrade,"
        " Connection).",
        follows=(*_WAY_IN, *_ROUTE),
    ),
    _probe(
        "probe_desktop_silent",
        "A desktop that counts as ready does not respond on its port.",
        "Its health page, requested through the API server.",
        "Read the desktop's log, then restart the session.",
        follows=("library_missing", "selkies_error", "network_policy_blocks", "node_not_ready"),
    ),
    _probe(
        "probe_pod_failed",
        "A pod of the template's image with an empty volume fails at a step of a desktop's start.",
        "A pod that the probe creates and removes: it pulls the image, mounts a volume, writes and"
        " resolves a name.",
        "Follow the message.",
        follows=(
            *(
                "image_unavailable",
                "storage_class_missing",
                "home_not_provisioned",
                "provisioner_silent",
                "dns_down",
            ),
            *("node_not_ready", "pod_refused", "room_insufficient", "node_under_pressure"),
        ),
    ),
    _probe(
        "probe_network_broken",
        "A pod with a desktop's labels does not reach DNS by its address (policy or network"
        " plugin), by a Service's (kube-proxy), or by name (DNS).",
        "The same pod tries a DNS pod's address, a new Service's, and a name.",
        "Follow the message: it names the first of the three that fails.",
        follows=("dns_down", "kube_proxy_down", "network_policy_blocks", "node_not_ready"),
        cluster_wide=True,
    ),
    _probe_warning(
        "network_policy_not_enforced",
        "The cluster has NetworkPolicies but does not enforce them: each desktop can reach every"
        " other pod.",
        "A connection that the policies deny, from the probe's pod with a desktop's labels.",
        "Install a network plugin that enforces them (docs/network.md).",
    ),
    _probe_warning(
        "processes_unlimited",
        "The kubelet limits the processes of no pod: a fork bomb stops every desktop of the node.",
        "podPidsLimit in the kubelet's configuration, requested through the API server.",
        "Set the kubelet's podPidsLimit: 4096 (K3s: --kubelet-arg=pod-max-pids=4096), and"
        " restart it.",
    ),
    _probe_warning(
        "probe_turn_refused",
        "The TURN server allocates no relay address, or does not respond: no WebRTC through"
        " firewalls.",
        "An allocation with credentials like the gateway's, from the machine that runs the doctor.",
        "Open port 3478 over UDP. After a 401, upgrade the release: both sides then share a"
        " secret.",
        follows=("unexplained_condition", "dns_down"),
    ),
    _probe_warning(
        "turn_peers_denied",
        "The TURN server relays only to allowed addresses, which do not include a desktop's"
        " address.",
        "allowed-peer-ip of its configuration, compared with the addresses of desktops' pods.",
        "Add the range of the pods to the chart's coturn.allowedPeers (K3s: 10.42.0.0/16).",
    ),
    _probe_warning(
        "gpu_memory_full",
        "The memory of a shared GPU is nearly used up. Slicing does not limit memory: the next"
        " desktop may fail.",
        "The metrics of NVIDIA's DCGM exporter, requested through the API server.",
        "Suspend a desktop on that node, or share its GPUs among fewer desktops.",
    ),
)
