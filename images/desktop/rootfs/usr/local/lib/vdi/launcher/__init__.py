"""The desktop container's first process (bin/vdi-desktop): starts the parts of a desktop side by
side and keeps them running. `desktop.py` has their order.

    Xvfb ──────────┬─ screen, keyboard ─┬─> PulseAudio, settings
    D-Bus ─────────┘                    ├─> one picture is captured and encoded
                                        ├─> start-up scripts, for 10 seconds at most; then they go on beside the rest
                                        └─> what draws OpenGL is decided (prove-graphics)
    Selkies loads, waits for that picture, and serves port 8080 ─> window manager, wallpaper, panel (or VDI_APP)

On Wayland (SELKIES_WAYLAND) Selkies itself is the compositor, in Xvfb's place: one application
draws on it, a whole desktop on labwc, which draws on it and brings Xwayland.

Xvfb, labwc, D-Bus and Selkies are the desktop: when one of them ends, or no picture can be made,
all ends with status 1 and the pod restarts. The reason is the log's last line, which the operator
quotes. The other parts are started again. SIGTERM and SIGINT end everything within two seconds,
with status 0.

Only this process, Selkies and vdi-agent hold secrets, and only in memory (process_secrets.py). This
process also holds their ports. So the programs of the desktop's user, which have the same uid, can
neither read a token nor receive one.
"""
