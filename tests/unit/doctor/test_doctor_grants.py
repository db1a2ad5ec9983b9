"""The commands that give an account a right that it lacks."""

from vdi.snapshot.model import UNKNOWN_ACCOUNT, grant_commands


def test_each_right_has_a_role_of_its_own_and_its_binding() -> None:
    commands = [
        *grant_commands("vdi-doctor", "bob", "list", "deployments.apps"),
        *grant_commands("vdi-doctor", "bob", "list", "pods"),
    ]
    assert commands == [
        (
            "kubectl create clusterrole vdi-doctor-list-deployments-apps --verb=list"
            " --resource=deployments.apps"
        ),
        (
            "kubectl create clusterrolebinding vdi-doctor-list-deployments-apps"
            " --clusterrole=vdi-doctor-list-deployments-apps --user=bob"
        ),
        "kubectl create clusterrole vdi-doctor-list-pods --verb=list --resource=pods",
        (
            "kubectl create clusterrolebinding vdi-doctor-list-pods"
            " --clusterrole=vdi-doctor-list-pods --user=bob"
        ),
    ]


def test_a_right_in_one_namespace_for_an_account_of_a_pod() -> None:
    account = "system:serviceaccount:vdi-system:vdi-doctor"
    assert grant_commands(
        "vdi", account, "get", "secrets", namespace="desks", resource_name="tls"
    ) == (
        (
            "kubectl create role vdi-get-secrets-tls --namespace desks --verb=get"
            " --resource=secrets --resource-name=tls"
        ),
        (
            "kubectl create rolebinding vdi-get-secrets-tls --namespace desks"
            " --role=vdi-get-secrets-tls --serviceaccount=vdi-system:vdi-doctor"
        ),
    )


def test_names_are_quoted_and_an_unknown_account_is_not_bound() -> None:
    assert grant_commands("vdi", "Bob B", "list", "pods/log")[1].endswith("'--user=Bob B'")
    assert grant_commands("vdi", UNKNOWN_ACCOUNT, "list", "pods/log") == (
        "kubectl create clusterrole vdi-list-pods-log --verb=list --resource=pods/log",
    )
