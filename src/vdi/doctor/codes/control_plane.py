"""Codes of the control plane: kinds, operator, rights, templates, and sessions that wait."""

from functools import partial

from vdi.diagnosis.check import Code
from vdi.findings.model import Severity

_code = partial(Code, layer="control plane")

# Why no operator acts on sessions.
NO_OPERATOR = (
    "crd_missing",
    "operator_missing",
    "session_unwatched",
    "operator_settings_bad",
    "operator_down",
    "operator_rights_missing",
    "operator_without_lease",
)

CONTROL_PLANE = (
    _code(
        code="crd_missing",
        cluster_wide=True,
        means=(
            "The API server does not know one of the kinds of vdi, so no one can create sessions, templates or pools."
        ),
        proof="The CustomResourceDefinition does not exist.",
        remedy="Install the chart: it includes the CRDs.",
    ),
    _code(
        code="crd_outdated",
        means=(
            "The cluster's CRD lacks fields of this version of vdi. The API server drops them silently, both from "
            "requests of users and from the operator's status."
        ),
        proof="The schema in the CustomResourceDefinition, compared with the one of this version.",
        remedy="Apply the CRDs of this version. If the operator is older than they are, upgrade the release.",
    ),
    _code(
        code="operator_missing",
        cluster_wide=True,
        means="No operator on this cluster processes sessions.",
        proof="There is no Deployment of the operator, and no Lease is being renewed.",
        remedy="Install the chart.",
        follows=("crd_missing",),
    ),
    _code(
        code="session_unwatched",
        means="No operator watches a namespace with sessions: they stay Pending forever.",
        proof="VDI_NAMESPACE of all operators, compared with the namespaces of the sessions.",
        remedy="Create the sessions in the operator's namespace, or install a second release for this one.",
    ),
    _code(
        code="operator_settings_bad",
        means="The operator exits when it starts, because one of its settings is not valid.",
        proof="The variables VDI_* of its Deployment, parsed as the operator parses them.",
        remedy="Correct the chart's value, then upgrade the release.",
    ),
    _code(
        code="operator_down",
        means=(
            "No replica of the operator responds. Running desktops are not affected; nothing starts, ends or is "
            "cleaned up."
        ),
        proof="readyReplicas of its Deployment, its pods and their logs.",
        remedy="Read its log and the Events of its pods.",
        follows=("operator_settings_bad", "operator_rights_missing", "node_not_ready", "node_under_pressure"),
    ),
    _code(
        code="operator_without_lease",
        means="The operator is ready, but no replica holds the Lease, so none is active.",
        proof="The Lease vdi-operator in the sessions' namespace: its holder, and when it was last renewed.",
        remedy="Restart the operator. If this happens again, its log says why it cannot write Leases.",
        follows=("operator_rights_missing", "operator_down", "node_not_ready"),
    ),
    _code(
        code="operator_stuck",
        means="The operator leads and responds, but does not process several sessions: no pod, no reason, no clean-up.",
        proof="The operator's own functions find no reason to wait, and nothing has happened for more than 30 seconds.",
        remedy="Read the operator's log, then restart it.",
        follows=NO_OPERATOR,
    ),
    _code(
        code="lease_of_a_stranger",
        severity=Severity.WARNING,
        means=(
            "A process that is not a pod of the installed operator leads, such as `vdi operator run` on someone's "
            "machine."
        ),
        proof="The holder's name in the Lease, compared with the names of the operator's pods.",
        remedy="Stop the other operator.",
    ),
    _code(
        code="operators_share_namespace",
        means=(
            "Two operators are installed for the same namespace of sessions. One of them is active, with its own "
            "settings. When it restarts, the other one takes over with different settings. Two operators with "
            "separate namespaces are not an error."
        ),
        proof="VDI_NAMESPACE of all Deployments of an operator.",
        remedy="Give one of the releases a namespace of its own in sessions.namespace, or uninstall it.",
    ),
    _code(
        code="operators_share_domain",
        means="Two releases use the same domain, so both claim portal.DOMAIN and the hosts of desktops.",
        proof="VDI_DOMAIN of operators that watch different namespaces.",
        remedy="Give one of the releases another domain.",
    ),
    _code(
        code="operator_rights_missing",
        means="The operator's account lacks permissions from the table in docs/design/operator.md.",
        proof="Roles, ClusterRoles and their bindings, evaluated as the API server does.",
        remedy="Upgrade the release: the chart grants exactly what is needed.",
    ),
    _code(
        code="finalizer_stuck",
        means="A deleted session remains, because only the operator removes its finalizer, after the clean-up.",
        proof="metadata.deletionTimestamp is more than a minute old, and the finalizer still exists.",
        remedy="Bring the operator back. Remove the finalizer manually only if the operator is gone permanently.",
        follows=(*NO_OPERATOR, "operator_stuck", "node_not_ready"),
    ),
    _code(
        code="session_ignored",
        means="A session has no desktop although nothing blocks it: the operator does not process it.",
        proof=(
            "It has had no pod and no update for more than 30 seconds; the operator's own functions find no reason "
            "to wait."
        ),
        remedy="Read the operator's log, then restart it.",
        follows=(*NO_OPERATOR, "operator_stuck"),
    ),
    _code(
        code="session_overdue",
        means="A session's time limit has been reached, but its desktop still runs and uses capacity.",
        proof="status.expiresAt is more than a minute old, and there is a pod.",
        remedy="Bring the operator back: it ends the session as soon as it leads.",
        follows=(*NO_OPERATOR, "operator_stuck", "clock_wrong"),
    ),
    _code(
        code="template_missing",
        means="The session names a template that does not exist. It starts automatically when the template is created.",
        proof="spec.template of the session, compared with the VDITemplates.",
        remedy="Create the template, or create the session with one that exists.",
    ),
    _code(
        code="template_invalid",
        means="The template passes the API server's schema, but no desktop can be created from it.",
        proof="The operator's own function that creates a desktop from session and template.",
        remedy="Correct the field that the message names.",
    ),
    _code(
        code="session_over_limit",
        means="The session requests more than its template allows, or a value that is not possible.",
        proof="The operator's own function that creates a desktop from session and template.",
        remedy="Request less, or raise the template's maximum.",
    ),
    _code(
        code="pod_refused",
        means=(
            "The API server refuses the desktop's pod (or another child): quota, LimitRange, Pod Security or a webhook."
        ),
        proof="The API server's message in the session's status.",
        remedy="Raise the limit that the message names, or request less.",
        follows=("operator_rights_missing",),
    ),
    _code(
        code="home_in_use",
        severity=Severity.WARNING,
        means="Another session of the same user uses the home, which allows one desktop at a time (ReadWriteOnce).",
        proof="The session's status.",
        remedy="End or suspend the other session. This one then starts automatically.",
    ),
    _code(
        code="host_taken",
        severity=Severity.WARNING,
        means="Another session has the host name, or it is reserved for another user, who used it first.",
        proof="The session's status. The ConfigMap vdi-host-NAME in the sessions' namespace names the user.",
        remedy="Give the session another spec.hostname. To release a name, an administrator deletes its ConfigMap.",
    ),
    _code(
        code="name_taken",
        means="An object of someone else has the name that a child of the session needs. Nothing is overwritten.",
        proof="The session's status.",
        remedy="Delete that object if it is a leftover, or give the session another name.",
    ),
    _code(
        code="session_failed",
        means=(
            "The operator has given up on the session, or waits before the next attempt, for a reason without its "
            "own code."
        ),
        proof="The message in the session's status.",
        remedy="Follow the message, then restart the session.",
        follows=(
            "library_missing",
            "home_full",
            "home_not_writable",
            "desktop_port_wrong",
            "cpu_limit_low",
            "selkies_error",
            "node_not_ready",
        ),
    ),
    _code(
        code="check_failed",
        severity=Severity.UNKNOWN,
        means="A check of the doctor failed, so its result is unknown.",
        proof="The error.",
        remedy="Report it with a bundle: this is a bug in vdi doctor.",
    ),
    _code(
        code="not_readable",
        severity=Severity.UNKNOWN,
        means=(
            "Your account may not read something, so the checks that need it did not run. This does not mean that "
            "they passed."
        ),
        proof="The API server's error message.",
        remedy="Grant that verb to the account that runs the doctor.",
    ),
)
