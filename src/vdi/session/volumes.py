"""Volumes of a template in one desktop: those that its user gets, the folder of each, and write
access. Pure.

Only the gateway knows the groups of a user, at login. It writes those that the template's volumes
name into an annotation of the session when the user starts the desktop. The admission policy of the
chart lets no one else write it. Where nothing is known of a user's groups, the user is in none: a
volume for groups is not mounted.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from urllib.parse import quote

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import TemplateSpec, TemplateVolume, VDITemplate
from vdi.session.naming import normal_name

# Annotation of a session: JSON list of those groups of its user that the volumes of its template
# name.
GROUPS = "vdi.kasm.io/groups"
# The start-up script of the template: name of the volume, and where it is mounted.
SCRIPT_VOLUME, SCRIPT_FOLDER = "vdi-startup", "/etc/vdi-startup"
_USER, _GROUP = "{user}", "{group}"
_PROGRAMS = "vdi-program-"
# Characters of a folder's name before it is shortened; file systems allow 255 bytes.
_LONGEST_FOLDER = 200


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume, or a folder of it, in the desktop."""

    # Name of the volume in the pod.
    volume: str
    path: str
    # Empty: the whole volume.
    sub_path: str
    read_only: bool
    image: str = ""


@dataclass(frozen=True, slots=True)
class Mounts:
    """The volumes of one desktop beside its home."""

    volumes: tuple[TemplateVolume, ...]
    mounts: tuple[Mount, ...]


def groups_of(session: VDISession) -> frozenset[str]:
    """The groups of the session's user, as far as the gateway has written them."""
    text = session.metadata.annotations.get(GROUPS, "[]")
    try:
        return frozenset(map(normal_name, msgspec.json.decode(text, type=list[str])))
    except msgspec.DecodeError:
        return frozenset()


def groups_annotation(template: VDITemplate, groups: Collection[str]) -> str | None:
    """The value of the annotation for a user in these groups; None: the template's volumes name
    none of them.
    """
    there = {normal_name(group.name) for volume in template.spec.volumes for group in volume.groups}
    named = sorted(there & set(map(normal_name, groups)))
    if named:
        return msgspec.json.encode(named).decode()
    return None


def resolve_mounts(spec: TemplateSpec, user: str, groups: Collection[str]) -> Mounts:
    """The volumes and mounts of a desktop of this user.

    A claim is one volume of the pod, also when the template mounts several of its folders: with a
    second volume of the same claim the kubelet waits forever.
    """
    volumes: dict[str, TemplateVolume] = {}
    mounts: list[Mount] = []
    for volume in spec.volumes:
        first_mounts = tuple(_mounts(volume, user, groups))
        if not first_mounts:
            continue
        claim = volume.persistent_volume_claim
        if claim:
            key = f"claim/{claim.claim_name}"
        else:
            key = f"volume/{volume.name}"
        first = volumes.setdefault(key, volume)
        if first is not volume:
            # The mounts say what may be written.
            volumes[key] = msgspec.structs.replace(first, read_only=False)
        mounts.extend(replace(mount, volume=first.name) for mount in first_mounts)
    for number, program in enumerate(spec.programs):
        mounts.append(
            Mount(
                f"{_PROGRAMS}{number}", program.mount_path, "", read_only=True, image=program.image
            )
        )
    return Mounts(tuple(volumes.values()), tuple(mounts))


def depend_on_user(spec: TemplateSpec) -> bool:
    """Whether two users may get different volumes, so that no desktop can be made before its user
    is known.
    """
    return any(volume.groups or _USER in (volume.sub_path or "") for volume in spec.volumes)


def find_volume_problems(
    spec: TemplateSpec, home: str | None, *, behind_gateway: bool
) -> Iterator[str]:
    """Problems of a template's volumes. `home`: the mount path of the home."""
    paths = {"/dev/shm"} | ({_normal(home)} if home else set())  # noqa: S108 -- a mount, not a file of ours
    names = {"home", "shm"}
    if spec.startup_script:
        names.add(SCRIPT_VOLUME)
        paths.add(SCRIPT_FOLDER)
    for volume in spec.volumes:
        if volume.name in names or volume.name.startswith(_PROGRAMS):
            yield f"spec.volumes: the name {volume.name!r} is taken; choose another"
        names.add(volume.name)
        if volume.groups and not behind_gateway:
            yield (
                f"spec.volumes: {volume.name!r} has groups, which only the gateway knows. Set"
                " gateway.enabled: true in the chart, or remove groups"
            )
        everyone = [normal_name(group.name) for group in volume.groups]
        for path in sorted(
            {_normal(mount.path) for mount in _mounts(volume, "user@example.com", everyone)}
        ):
            if path in paths:
                yield (
                    f"spec.volumes: something is already mounted at {path}; choose another"
                    " mountPath"
                )
            paths.add(path)
    for path in (_normal(program.mount_path) for program in spec.programs):
        # Also not above: what is mounted inside it would need a folder in an image that is
        # read-only.
        if above := [other for other in sorted(paths) if f"{other}/".startswith(f"{path}/")]:
            yield (
                f"spec.programs: something is already mounted at {above[0]}; choose another"
                f" mountPath than {path}"
            )


def folder_name(name: str) -> str:
    """The folder of a user or group: one path component, another one for each name.

    Characters other than ASCII's letters and digits and `@+=_.~-` are written as in a URL, and so
    is a dot at the beginning.
    """
    text = quote(name, safe="@+=")
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) <= _LONGEST_FOLDER:
        return text
    # Quoting writes hexadecimal digits in upper case, so no other name has %x in it: the two never
    # collide.
    return f"{text[:_LONGEST_FOLDER]}%x{sha256(name.encode()).hexdigest()[:16]}"


def _mounts(volume: TemplateVolume, user: str, groups: Collection[str]) -> Iterator[Mount]:
    mine: dict[str, bool] = {}  # by group: read only
    for group in volume.groups:
        name = normal_name(group.name)
        if name in groups:
            mine[name] = group.read_only and mine.get(name, True)
    sub_path = (volume.sub_path or "").replace(_USER, folder_name(normal_name(user)))
    if _GROUP in sub_path:
        for name, read_only in mine.items():
            folder = folder_name(name)
            path = volume.mount_path.replace(_GROUP, folder)
            yield Mount(volume.name, path, sub_path.replace(_GROUP, folder), read_only)
    elif mine:
        yield Mount(volume.name, volume.mount_path, sub_path, all(mine.values()))
    elif not volume.groups:
        yield Mount(volume.name, volume.mount_path, sub_path, volume.read_only)


def _normal(path: str) -> str:
    return path.rstrip("/")
