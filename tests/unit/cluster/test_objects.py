"""Objects as API servers really send them, where they are not what one would expect, and what is kept of them."""

import msgspec

from vdi.cluster.objects import Node, Pod


def test_node_with_an_unnamed_image_is_decoded() -> None:
    """Seen with containerd: `names: null`, after a tag had moved to a newer image."""
    images = b'[{"names":null,"sizeBytes":5},{"names":["a:1"],"sizeBytes":7}]'
    node = msgspec.json.decode(b'{"metadata":{"name":"n"},"status":{"images":' + images + b"}}", type=Node)
    assert [image.names for image in node.status.images] == [None, ("a:1",)]


def test_decoded_pod_keeps_only_used_fields() -> None:
    pod = msgspec.json.decode(
        b"""{"metadata": {"name": "p"},
        "spec": {"volumes": [{"name": "tmp", "emptyDir": {}},
                             {"name": "home", "persistentVolumeClaim": {"claimName": "home-a"}}]},
        "status": {"conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"},
                                  {"type": "PodScheduled", "status": "True"},
                                  {"type": "DisruptionTarget", "status": "True"}]}}""",
        type=Pod,
    )
    assert [condition.type for condition in pod.status.conditions] == ["Ready", "PodScheduled", "DisruptionTarget"]
    assert [volume.name for volume in pod.spec.volumes] == ["home"]
    assert pod.home_claim == "home-a"
