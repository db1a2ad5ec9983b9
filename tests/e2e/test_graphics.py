"""The OpenGL renderer of a desktop: Zink where Vulkan has a device (here lavapipe, on the CPU),
else software.
"""

import pytest
from PIL.Image import Image

from e2e.conftest import NAME
from e2e.desktops import Object, log_of, run_in, started, status_of, wait_for_panel
from e2e.release import load_image
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import changed_pixels

pytestmark = pytest.mark.timeout(600)
# What an application that is started from the desktop's menu has.
AS_AN_APPLICATION = (
    "export $(tr '\\0' '\\n' < /proc/$(pgrep -x xfce4-panel | head -1)/environ | grep -E "
    "'^(DISPLAY|XAUTHORITY|XDG_RUNTIME_DIR|MESA_LOADER_DRIVER_OVERRIDE|GALLIUM_DRIVER|LIBGL_.*)='); "
)


def graphics_of(world: World, name: str) -> Object:
    """`status.graphics`, once the agent was asked."""
    found: Object = wait_until(
        f"the status of {name} says what draws", lambda: status_of(world, name).get("graphics")
    )
    return found


def test_desktop_without_a_gpu_reports_software_rendering(sessions: World) -> None:
    with started(sessions, "petra"):
        graphics = graphics_of(sessions, "petra")
        assert (graphics["renderer"], graphics["reason"]) == ("Software", "NoGPU")
        assert graphics["encoder"] == "x264" and "hardwareEncoder" not in graphics

        page = sessions.vdi("session", "show", "petra")

        assert "OpenGL:    in software: the pod has no GPU" in page
        assert "Encoder:   x264 in software" in page
        assert "OpenGL: software: the pod has no GPU" in log_of(sessions, "petra")


@pytest.mark.ci
def test_opengl_window_counts_once_it_is_on_screen(sessions: World) -> None:
    """The check that proves NVIDIA's own OpenGL, here with Mesa's: there is no GPU."""
    with started(sessions, "wim"):
        wait_for_panel(sessions, "wim")
        draw = "/usr/local/lib/vdi/draw-window"

        drawn = run_in(sessions, "wim", AS_AN_APPLICATION + draw).split("\t")
        unreachable = run_in(
            sessions, "wim", f"{AS_AN_APPLICATION} DISPLAY=:78 {draw} 2>&1 || true"
        )

        assert drawn[0] == "Mesa" and drawn[1].startswith("llvmpipe")
        assert "the X server cannot be reached" in unreachable


@pytest.fixture(scope="module")
def lavapipe(world: World) -> str:
    """The test image, in the node."""
    assert world.kubeconfig.exists()
    load_image(NAME, "desktop-lavapipe")
    return "localhost/vdi/desktop-lavapipe:dev"


@pytest.mark.long
def test_applications_use_zink_and_the_x_server_does_not(sessions: World, lavapipe: str) -> None:
    with started(sessions, "zoe", image=lavapipe):
        graphics = graphics_of(sessions, "zoe")
        assert graphics["renderer"] == "Zink" and graphics["device"].startswith("zink Vulkan 1.")
        assert "reason" not in graphics
        assert "OpenGL:    Zink (zink Vulkan 1." in sessions.vdi("session", "show", "zoe")
        wait_for_panel(sessions, "zoe")

        drawn = run_in(sessions, "zoe", AS_AN_APPLICATION + "glxinfo -B")
        x_server = run_in(sessions, "zoe", "tr '\\0' '\\n' < /proc/$(pgrep -x Xvfb)/environ")

        assert "OpenGL renderer string: zink Vulkan 1." in drawn
        assert "zink" not in x_server and "__EGL_VENDOR_LIBRARY_FILENAMES=" in x_server
        with sessions.browser("zoe") as browser:
            browser.open()
            still = browser.picture()
            run_in(
                sessions,
                "zoe",
                AS_AN_APPLICATION + "setsid glxgears -geometry 600x600 >/dev/null 2>&1 &",
            )

            def differs(before: Image, pixels: int) -> Image | None:
                now = browser.picture()
                return now if changed_pixels(before, now) >= pixels else None

            shown = wait_until("the gears are in the picture", lambda: differs(still, 20_000))
            wait_until("the gears turn", lambda: differs(shown, 500))


@pytest.mark.long
def test_a_vulkan_driver_that_zink_may_not_use_leaves_software(
    sessions: World, lavapipe: str
) -> None:
    variables = [{"name": "LIBGL_ALWAYS_SOFTWARE", "value": "0"}]
    with started(sessions, "rita", image=lavapipe, env=variables):
        assert graphics_of(sessions, "rita")["renderer"] == "Software"
        wait_for_panel(sessions, "rita")
        assert "OpenGL renderer string: llvmpipe" in run_in(
            sessions, "rita", AS_AN_APPLICATION + "glxinfo -B"
        )
