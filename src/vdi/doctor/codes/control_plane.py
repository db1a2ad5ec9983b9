"""Codes of the control plane: CRDs, the operator, its Lease, Helm's release, templates, and
sessions that wait.
"""

from functools import partial

from vdi.doctor.codes.infrastructure import CRASH_CAUSES
from vdi.findings.model import Severity
from vdi.snapshot.check import Code

_code = partial(Code, layer="control plane")
_warning = partial(_code, severity=Severity.WARNING)

# Reasons why no operator acts on sessions.
NO_OPERATOR = (
    "crd_missing",
    "operator_missing",
    "session_unwatched",
    "operator_settings_bad",
    "operator_down",
    "operator_troubled",
    "operator_without_lease",
)
# Objects of a release that are missing or changed: rights, settings, routes, policies.
RELEASE_DIFFERS = "release_differs"
# Codes of the last check. Faults of the whole cluster may show anywhere.
_unexplained = partial(_warning, follows=("crd_missing", "operator_missing", "dns_down"))

CONTROL_PLANE = (
    _code(
        "crd_missing",
        "The API server does not know one of the kinds of vdi, so no one can create sessions,"
        " templates or pools.",
        "The CustomResourceDefinition does not exist.",
        "Install the chart: it includes the CRDs.",
        cluster_wide=True,
    ),
    _code(
        "crd_outdated",
        "The cluster's CRD lacks fields of this version of vdi. The API server drops them"
        " silently.",
        "The schema in the CustomResourceDefinition, compared with the one of this version.",
        "Apply the CRDs of this version. If the operator is older than they are, upgrade the"
        " release.",
    ),
    _code(
        "operator_missing",
        "No operator on this cluster processes sessions.",
        "There is no Deployment of the operator, and no Lease is being renewed.",
        "Install the chart.",
        cluster_wide=True,
        follows=("crd_missing",),
    ),
    _code(
        "session_unwatched",
        "No operator watches a namespace with sessions: they stay Pending forever.",
        "VDI_NAMESPACE of all operators, compared with the namespaces of the sessions.",
        "Create the sessions in the operator's namespace, or install a second release for this"
        " one.",
    ),
    _code(
        "operator_settings_bad",
        "The operator exits when it starts, because one of its settings is not valid.",
        "The variables VDI_* of its Deployment, parsed as the operator parses them.",
        "Correct the chart's value, then upgrade the release.",
    ),
    _code(
        "operator_down",
        "No replica of the operator responds: nothing starts, ends or is cleaned up. Running"
        " desktops continue.",
        "readyReplicas of its Deployment, its pods and their logs.",
        "Read its log and the Events of its pods.",
        follows=(RELEASE_DIFFERS, "operator_settings_bad", "node_not_ready", "node_under_pressure"),
    ),
    _code(
        "operator_without_lease",
        "The operator is ready, but no replica holds the Lease, so none is active.",
        "The Lease vdi-operator in the sessions' namespace: its holder, and when it was last"
        " renewed.",
        "Restart the operator. If this happens again, its log says why it cannot write Leases.",
        follows=(RELEASE_DIFFERS, "operator_down", "node_not_ready"),
    ),
    _code(
        "operator_troubled",
        "The operator lacks something that it needs, such as a key: it starts no session.",
        "The log of each of its pods, which repeats it every minute.",
        "Follow the message.",
        follows=(RELEASE_DIFFERS, "crd_missing", "dns_down", "network_policy_blocks"),
        spreads=True,
    ),
    _code(
        "operator_stuck",
        "The operator leads and responds, but does not process several sessions: no pod, no reason,"
        " no clean-up.",
        "Nothing has happened for more than 30 seconds.",
        "Read the operator's log, then restart it.",
        follows=(RELEASE_DIFFERS, *NO_OPERATOR),
    ),
    _warning(
        "lease_of_a_stranger",
        "A process that is not a pod of the installed operator leads.",
        "The holder's name in the Lease, compared with the names of the operator's pods.",
        "Stop the other operator.",
    ),
    _code(
        "operators_collide",
        "Two operators are installed for the same namespace of sessions, or the same domain.",
        "VDI_NAMESPACE and VDI_DOMAIN of all Deployments of an operator.",
        "Give one of the releases another sessions.namespace or domain, or uninstall it.",
    ),
    _code(
        RELEASE_DIFFERS,
        "An object that Helm installed is missing, or differs in a field.",
        "Helm's manifest, compared with the cluster. metadata.managedFields names the program that"
        " changed it.",
        "Upgrade the release, which puts it back. To keep a change, make it in the chart's values.",
        spreads=True,
    ),
    _code(
        "session_ignored",
        "A session has no desktop although nothing blocks it: the operator does not process it.",
        "It has had no pod and no update for over 30 seconds.",
        "Read the operator's log, then restart it.",
        follows=(RELEASE_DIFFERS, *NO_OPERATOR, "operator_stuck"),
    ),
    _code(
        "session_overdue",
        "A session's time limit has been reached, but its desktop still runs and uses capacity.",
        "status.expiresAt is more than a minute old, and there is a pod.",
        "Bring the operator back: it ends the session as soon as it leads.",
        follows=(RELEASE_DIFFERS, *NO_OPERATOR, "operator_stuck", "clock_wrong"),
    ),
    _code(
        "template_missing",
        "The session names a template that does not exist. It starts automatically when the"
        " template is created.",
        "spec.template of the session, compared with the VDITemplates.",
        "Create the template, or create the session with one that exists.",
    ),
    _code(
        "template_invalid",
        "The template passes the API server's schema, but no desktop can be created from it.",
        "The operator's own function that creates a desktop from session and template.",
        "Correct the field that the message names.",
    ),
    _code(
        "session_over_limit",
        "The session requests more than its template allows, or a value that is not possible.",
        "The operator's own function that creates a desktop from session and template.",
        "Request less, or raise the template's maximum.",
    ),
    _code(
        "pod_refused",
        "The API server refuses the desktop's pod (or another child): quota, LimitRange, Pod"
        " Security or a webhook.",
        "The API server's message in the session's status.",
        "Raise the limit that the message names, or request less.",
        follows=(RELEASE_DIFFERS,),
    ),
    _warning(
        "home_in_use",
        "Another session of the same user uses the home, which allows one desktop at a time"
        " (ReadWriteOnce).",
        "The session's status.",
        "End or suspend the other session. This one then starts automatically.",
    ),
    _warning(
        "host_taken",
        "Another session has the host name, or it is reserved for another user, who used it first.",
        "The session's status. The ConfigMap vdi-host-NAME in the sessions' namespace names the"
        " user.",
        "Give the session another spec.hostname. To release a name, an administrator deletes its"
        " ConfigMap.",
    ),
    _code(
        "name_taken",
        "An object of someone else has the name that a child of the session needs.",
        "The session's status.",
        "Delete that object if it is a leftover, or give the session another name.",
    ),
    _code(
        "session_failed",
        "The operator has given up on the session, or waits before it tries again, for a reason"
        " without a code.",
        "The message in the session's status.",
        "Follow the message, then restart the session.",
        follows=(*CRASH_CAUSES, "node_not_ready", "deletion_stuck"),
    ),
    _unexplained(
        "unexplained_condition",
        "An object that a session, a pool, a route or the release names is not well, and no other"
        " finding explains it.",
        "A condition of its status: False, or True where that is bad.",
        "Follow the words of the condition.",
    ),
    _unexplained(
        "unexplained_event",
        "The cluster warns of an object that counts as ready, and no other finding explains it.",
        "A Warning Event of the last ten minutes about this very object (regarding.uid), after it"
        " became ready.",
        "Follow the words of the Event.",
    ),
    _code(
        "deletion_stuck",
        "An object was deleted more than a minute ago and still exists.",
        "metadata.deletionTimestamp, and metadata.finalizers with their controllers.",
        "Repair the controller of the finalizer (of a session: the operator). Without one, look at"
        " the pod's node.",
    ),
    _unexplained(
        "container_restarted",
        "A container of a desktop or of the release failed within the last hour, and runs again. A "
        "restart of the whole machine does not count.",
        "The container's last state, or status.failures of the session.",
        "Read its last lines, or raise the limit that was reached.",
    ),
    _code(
        "check_failed",
        "A check of the doctor failed, so its result is unknown.",
        "The error.",
        "Report it with a bundle: this is a bug in vdi doctor.",
        severity=Severity.UNKNOWN,
    ),
    _code(
        "not_readable",
        "Your account may not read something, so the checks that need it did not run.",
        "The API server's error message.",
        "Grant that verb to the account that runs the doctor.",
        severity=Severity.UNKNOWN,
    ),
)
