"""Objects as API servers really send them, where they are not what one would expect."""

import msgspec

from vdi.session.observed import Node


def test_a_node_with_an_image_that_has_lost_its_names_is_a_node() -> None:
    """Seen with containerd: `names: null`, after a tag had moved to a newer image."""
    images = b'[{"names":null,"sizeBytes":5},{"names":["a:1"],"sizeBytes":7}]'
    node = msgspec.json.decode(b'{"metadata":{"name":"n"},"status":{"images":' + images + b"}}", type=Node)
    assert [image.names for image in node.status.images] == [None, ("a:1",)]
