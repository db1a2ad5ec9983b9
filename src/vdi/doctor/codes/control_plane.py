"""Codes of the control plane: kinds, operator, rights, templates, and sessions that wait."""

from functools import partial

from vdi.diagnosis.code import Code
from vdi.findings.model import Severity

_code = partial(Code, layer="control plane")

NO_OPERATOR = (
    "crd_missing",
    "operator_missing",
    "session_unwatched",
    "operator_settings_bad",
    "operator_down",
    "operator_rights_missing",
    "operator_without_lease",
)
"""Why no operator acts on sessions."""

CONTROL_PLANE = (
    _code(
        code="crd_missing",
        cluster_wide=True,
        means="The API server does not know one of our kinds, so no one can make sessions, templates or pools.",
        proof="The CustomResourceDefinition is not there.",
        remedy="Install the chart: the CRDs are part of it.",
    ),
    _code(
        code="crd_outdated",
        means="The cluster's CRD lacks fields that this version of vdi knows. The API server drops them in silence:"
        " what"
        " people ask for is lost, or the operator's status is.",
        proof="The schema in the CustomResourceDefinition, compared with the one that this version would install.",
        remedy="Apply the CRDs of this version. If the operator is older than they are, upgrade the release.",
    ),
    _code(
        code="operator_missing",
        cluster_wide=True,
        means="Nothing on this cluster turns sessions into desktops.",
        proof="No Deployment of the operator, and no Lease that anybody renews.",
        remedy="Install the chart.",
        follows=("crd_missing",),
    ),
    _code(
        code="session_unwatched",
        means="Sessions lie in a namespace that no operator looks at: they stay Pending for ever.",
        proof="VDI_NAMESPACE of all operators, against the namespaces of the sessions.",
        remedy="Create the sessions in the operator's namespace, or install a second release for this one.",
    ),
    _code(
        code="operator_settings_bad",
        means="The operator ends at its start, because it cannot use one of its settings.",
        proof="The variables VDI_* of its Deployment, read as the operator reads them.",
        remedy="Correct the chart's value, then upgrade the release.",
    ),
    _code(
        code="operator_down",
        means="The operator has no replica that answers. Running desktops go on; nothing starts, ends or is cleaned"
        " up.",
        proof="readyReplicas of its Deployment, its pods and their logs.",
        remedy="Read its log and the Events of its pods.",
        follows=("operator_settings_bad", "operator_rights_missing", "node_not_ready", "node_under_pressure"),
    ),
    _code(
        code="operator_without_lease",
        means="The operator is ready, but no replica has the Lease, so none writes.",
        proof="The Lease vdi-operator in the sessions' namespace: holder, and when it was renewed last.",
        remedy="Restart the operator. If this comes back, its log says why it cannot write Leases.",
        follows=("operator_rights_missing", "operator_down", "node_not_ready"),
    ),
    _code(
        code="operator_stuck",
        means="The operator leads and answers, but several sessions get nothing from it: no pod, no reason, no"
        " clean-up.",
        proof="The operator's own functions find no reason to wait, and nothing has happened for more than 30 seconds.",
        remedy="Read the operator's log, then restart it.",
        follows=NO_OPERATOR,
    ),
    _code(
        code="lease_of_a_stranger",
        severity=Severity.WARNING,
        means="A process that is no pod of the installed operator leads, such as `vdi operator run` on somebody's"
        " machine.",
        proof="The holder's name in the Lease, against the names of the operator's pods.",
        remedy="End the other operator.",
    ),
    _code(
        code="operators_share_namespace",
        means="Two operators are installed for one namespace of sessions. One of them works, with its own settings;"
        " when it restarts, the other takes over with others. Two operators with a namespace each are no fault.",
        proof="VDI_NAMESPACE of all Deployments of an operator.",
        remedy="Give one of the releases a namespace of its own in sessions.namespace, or uninstall it.",
    ),
    _code(
        code="operators_share_domain",
        means="Two releases serve one domain, so both claim portal.DOMAIN and the hosts of desktops.",
        proof="VDI_DOMAIN of operators that watch different namespaces.",
        remedy="Give one of the releases another domain.",
    ),
    _code(
        code="operator_rights_missing",
        means="The operator's account lacks rights of the table in docs/design/operator.md.",
        proof="Roles, ClusterRoles and their bindings, reckoned as the API server does.",
        remedy="Upgrade the release: the chart grants exactly what is needed.",
    ),
    _code(
        code="finalizer_stuck",
        means="A deleted session does not go, since only the operator takes its finalizer off, after it has cleaned"
        " up.",
        proof="metadata.deletionTimestamp is more than a minute old, and the finalizer is still there.",
        remedy="Bring the operator back. Remove the finalizer by hand only if the operator is gone for good.",
        follows=(*NO_OPERATOR, "operator_stuck", "node_not_ready"),
    ),
    _code(
        code="session_ignored",
        means="A session has no desktop although nothing blocks it: the operator does not act on it.",
        proof="It has been without pod and without news for more than 30 seconds; the operator's own functions find no"
        " reason to wait.",
        remedy="Read the operator's log, then restart it.",
        follows=(*NO_OPERATOR, "operator_stuck"),
    ),
    _code(
        code="session_overdue",
        means="A session's time is over, and its desktop still runs and keeps its capacity.",
        proof="status.expiresAt is more than a minute old, and there is a pod.",
        remedy="Bring the operator back: it ends the session as soon as it leads.",
        follows=(*NO_OPERATOR, "operator_stuck", "clock_wrong"),
    ),
    _code(
        code="template_missing",
        means="The session names a template that does not exist. It starts by itself when it does.",
        proof="spec.template of the session, against the VDITemplates.",
        remedy="Create the template, or create the session with one that exists.",
    ),
    _code(
        code="template_invalid",
        means="The template passes the API server's schema, but no desktop can be made of it.",
        proof="The operator's own function that makes a desktop of session and template.",
        remedy="Correct the field that the message names.",
    ),
    _code(
        code="session_over_limit",
        means="The session asks for more than its template allows, or for what cannot be.",
        proof="The operator's own function that makes a desktop of session and template.",
        remedy="Request less, or raise the template's maximum.",
    ),
    _code(
        code="pod_refused",
        means="The API server refuses the desktop's pod (or another child): quota, LimitRange, Pod Security, a"
        " webhook.",
        proof="The refusal in the session's status, in the API server's words.",
        remedy="Raise the limit that the message names, or request less.",
        follows=("operator_rights_missing",),
    ),
    _code(
        code="home_in_use",
        severity=Severity.WARNING,
        means="Another session of the same user has the home, which is for one desktop at a time (ReadWriteOnce).",
        proof="The session's status.",
        remedy="End or suspend the other session: this one then starts by itself.",
    ),
    _code(
        code="host_taken",
        severity=Severity.WARNING,
        means="Another session has the host name, or it is reserved for another user, who had it first.",
        proof="The session's status. The ConfigMap vdi-host-NAME in the sessions' namespace names the user.",
        remedy="Give the session another spec.hostname. To release a name, an administrator deletes its ConfigMap.",
    ),
    _code(
        code="name_taken",
        means="An object of somebody else has the name that a child of the session needs. Nothing is taken over.",
        proof="The session's status.",
        remedy="Delete that object if it is a leftover, or give the session another name.",
    ),
    _code(
        code="session_failed",
        means="The operator has given the session up, or waits before it tries again, for a reason without a code of"
        " its"
        " own.",
        proof="The session's status, in the operator's words.",
        remedy="Do what the message says, then restart the session.",
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
        means="A check of the doctor's own failed, so what it looks at is not known.",
        proof="The error.",
        remedy="Report it with a bundle: this is a fault of vdi doctor.",
    ),
    _code(
        code="not_readable",
        severity=Severity.UNKNOWN,
        means="Your account may not read something, so the checks that need it were not made. That is no pass.",
        proof="The API server's refusal.",
        remedy="Grant that verb to the account that runs the doctor.",
    ),
)
