"""Values that the chart refuses to render: by its schema, or by a check in a template. Real helm,
no cluster.
"""

import subprocess
from pathlib import Path

import pytest

from tools.generate.chart_render import CHART, DEV_IMAGES

_TURN = "gateway.turn.urls={turn:t.example.com:3478?transport=udp}"
_COTURN = "coturn.enabled=true,coturn.realm=t.example.com,coturn.allowedPeers={10.42.0.0/16}"
_SPACES = "sessions.namespaces={desks,lab}"
_S3 = "gateway.recordings.s3"
_RECORDINGS = (
    f"{_S3}.bucket=recordings,{_S3}.endpoint=https://s3.example.com,{_S3}.existingSecret=recordings"
)
_POOL = "pools.warm.template=small,pools.warm.replicas=1"

# As `--set` has them, and what the refusal says.
# By the schema, all in one run of helm.
WRONG: list[tuple[str, tuple[str, ...]]] = [
    ("domian=x", ("domian",)),
    ("urlPort=70000", ("/urlPort", "70,000", "65,535")),
    ("domain=*.example.com", ("/domain", "*.example.com", "pattern")),
    ("logLevel=loud", ("/logLevel", "'debug', 'info', 'warning', 'error'")),
    ("templates.small.resources.defaultGpu=1", ("/templates/small", "defaultGpu")),
    ("autoscaling.enabled=On", ("/autoscaling/enabled", "boolean")),
    ("autoscaling.headroom.cad=0", ("/autoscaling/headroom/cad", "minimum")),
    ("queue.weights.alice=two", ("/queue/weights/alice", "pattern")),
    ("pools.warm.replicas=1", ("/pools/warm", "template")),
    ("traefik.tlsSecret=a,traefik.certResolver=b", ("/traefik/certResolver", "maxLength")),
    ("traefik.peers=null", ("/traefik", "peers")),
    ("image.digest=sha256:abc", ("digest",)),
    ("hostAliases[0].ip=192.0.2.7", ("hostAliases",)),
    ("gateway.proxy.https=http://me:secret@proxy:3128", ("https",)),
    ("gateway.oidc.issuer=sso.example.com", ("/gateway/oidc/issuer", "pattern")),
    (
        "gateway.notices.webhook.url=http://hooks.example.com",
        ("/gateway/notices/webhook/url", "pattern"),
    ),
    (
        "gateway.notices.email.from=vdi@example.com",
        ("/gateway/notices/email/existingSecret", "minLength"),
    ),
    ("gateway.adminUsers[0]=root", ("/gateway/adminUsers/0", "pattern")),
    ("gateway.login.tokenSeconds=5", ("/gateway/login/tokenSeconds", "minimum")),
    ("gateway.trustedProxies[0]=traefik", ("/gateway/trustedProxies/0", "pattern")),
    ("gateway.turn.urls={t.example.com}", ("/gateway/turn/urls/0",)),
    ("gateway.turn.ttl=1d", ("/gateway/turn/ttl",)),
    ("network.apiServer[0]=192.0.2.10", ("/network/apiServer/0",)),
    ("network.turn.addresses[0]=turn.example.com/32", ("/network/turn/addresses/0",)),
    ("network.notInternet[0]=private", ("/network/notInternet/0",)),
    ("network.egres[0].to[0].ipBlock.cidr=192.0.2.0/24", ("egres",)),
    ("network.egress[0].from[0].ipBlock.cidr=192.0.2.0/24", ("/network/egress/0",)),
    ("network.templates.My_Template[0].ports[0].port=1", ("My_Template",)),
    ("network.dns=null", ("missing property 'dns'",)),
    ("sessions.namespaces={desks,desks}", ("items at 0 and 1 are equal",)),
]
# Each in a run of its own: a check in a template, or another value is in its way above.
REFUSED: list[tuple[str, tuple[str, ...]]] = [
    ("extraEnv[0].name=VDI_DOMAIN", ("VDI_DOMAIN is already set by the chart",)),
    (
        "gateway.extraEnv[0].name=VDI_RETENTION_DAYS",
        ("VDI_RETENTION_DAYS is already set by the chart",),
    ),
    (r"podLabels.app\.kubernetes\.io/name=mine", ("podLabels: app.kubernetes.io/name",)),
    (
        "gateway.replicas=2",
        ("gateway.replicas: 2", "database.existingSecret", "redis.existingSecret"),
    ),
    (
        "gateway.replicas=2,gateway.database.existingSecret=db",
        ("gateway.replicas: 2", "redis.existingSecret"),
    ),
    ("gateway.oidc.issuer=https://sso.example.com", ("/gateway/oidc/clientId", "minLength")),
    (
        "gateway.notices.webhook.url=https://hooks.example.com/vdi",
        ("/gateway/notices/webhook/existingSecret", "minLength"),
    ),
    ("gateway.notices.webhook.existingSecret=hook", ("/gateway/notices/webhook/url", "minLength")),
    ("gateway.notices.email.existingSecret=mail", ("/gateway/notices/email/from", "minLength")),
    (
        "gateway.recordings.s3.bucket=recordings",
        ("/gateway/recordings/s3/endpoint", "/gateway/recordings/s3/existingSecret"),
    ),
    (
        f"{_RECORDINGS},gateway.recordings.claim=recordings",
        ("/gateway/recordings/s3/bucket", "maxLength"),
    ),
    (
        f"{_RECORDINGS},gateway.recordings.s3.endpoint=s3.example.com",
        ("/gateway/recordings/s3/endpoint", "pattern"),
    ),
    (
        f"{_RECORDINGS},gateway.recordings.s3.bucket=Recordings",
        ("/gateway/recordings/s3/bucket", "pattern"),
    ),
    (
        f"{_RECORDINGS},gateway.recordings.s3.prefix=/recordings",
        ("/gateway/recordings/s3/prefix", "pattern"),
    ),
    (_TURN, ("needs coturn.enabled, or gateway.turn",)),
    (
        f"{_TURN},gateway.turn.existingSecret=mine,{_COTURN}",
        ("allowed: true, or gateway.turn.existingSecret (mine), not both",),
    ),
    ("network.notInternet=null", ("missing property 'notInternet'",)),
    ("network=null", ("missing property 'network'",)),
    *(
        (f"network.apiServerPorts={ports}", ("apiServerPorts",))
        for ports in ("null", "{}", "{0}", "{https}", "443")
    ),
    (
        f"{_SPACES},sessions.groupNamespaces.staff=labs",
        ("sessions.groupNamespaces: staff: labs: allowed: a",),
    ),
    (
        f"{_SPACES},{_POOL},pools.warm.namespace=labs",
        ("pools.warm.namespace: labs: allowed: a namespace of sessions: desks",),
    ),
    ("sessions.namespaces={Desks}", ("does not match pattern",)),
]


def refusal(helm: Path, *values: str) -> str:
    """What helm writes instead of rendering."""
    command = [str(helm), "template", "vdi", str(CHART), "--values", str(DEV_IMAGES)]
    command += ["--kube-version", "1.34.0", "--api-versions", "vdi.kasm.io/v1alpha1/VDIPool"]
    for value in values:
        command += ["--set", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    return done.stderr


def test_schema_names_every_wrong_value(helm: Path) -> None:
    lines = refusal(helm, *(values for values, _ in WRONG)).splitlines()
    for values, said in WRONG:
        assert any(all(words in line for words in said) for line in lines), values


@pytest.mark.parametrize(("values", "said"), REFUSED, ids=[values for values, _ in REFUSED])
def test_invalid_value_is_refused(helm: Path, values: str, said: tuple[str, ...]) -> None:
    stderr = refusal(helm, values)
    for words in said:
        assert words in stderr, stderr
