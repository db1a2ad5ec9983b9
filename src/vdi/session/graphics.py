"""What draws and what encodes a desktop's picture, in sentences. Pure.

The report is the desktop's own (`status.graphics`): its user can put any program in the agent's place, so it is shown
and counted, and decides nothing.
"""

from vdi.api.session import GraphicsStatus

SOFTWARE = "Software"
"""`status.graphics.renderer` where Mesa draws on the CPU."""
CAPABILITY_MISSING = "GraphicsCapabilityMissing"
DRIVER_NOT_LOADABLE = "DriverNotLoadable"
NOT_ON_X11 = "NotSupported"
"""The GPU is Intel's or AMD's, which programs on X11 cannot draw on in a container, and on Wayland can."""


def renders_on_gpu(graphics: GraphicsStatus) -> bool:
    """Whether OpenGL is drawn by a GPU."""
    return graphics.renderer != SOFTWARE


def describe_renderer(graphics: GraphicsStatus) -> str:
    """What draws OpenGL, and the reason where it is the CPU."""
    if not renders_on_gpu(graphics):
        return "in software" + (f": {graphics.message}" if graphics.message else "")
    return graphics.renderer + (f" ({graphics.device})" if graphics.device else "")


def describe_encoder(graphics: GraphicsStatus) -> str:
    """What encodes the stream, and the reason where it is the CPU."""
    if not graphics.encoder:
        return ""
    if graphics.hardware_encoder:
        return f"{graphics.encoder} on the GPU"
    return f"{graphics.encoder} in software" + (f": {graphics.encoder_message}" if graphics.encoder_message else "")
