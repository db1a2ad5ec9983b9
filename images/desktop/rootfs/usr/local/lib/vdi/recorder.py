"""Selkies' recorder as vdi-agent uses it: where it writes, its settings, its priority. For
run-selkies, once Selkies is imported.
"""

import math
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pixelflux
from handed_files import HandedRecording
from recording_pace import RecordingPace, RecordingRate, StreamPictures, pop_number
from selkies import audio_control, stream_stats
from selkies.settings import settings

# x264's quality of a recording with 15 pictures a second, in which text can be read.
SHARP_CRF = 25
RECORDER_NICE = 5  # half of what applications have (vdi-desktop)
# Of a piece of a recording's sound, and of how much PulseAudio collects before it sends.
SOUND_MS, SOUND_LATENCY_MS = 60.0, 240


def take_recordings(server: Any, recordings: socket.socket) -> None:
    """Recordings are made in files that vdi-agent hands over, wherever a request wants them, and
    have to keep their pace.

    Args:
        server: Selkies' class that answers requests.
        recordings: receives the files.
    """
    watch = getattr(stream_stats, "StreamWatch", None)
    if not hasattr(server, "_recording_target") or not hasattr(watch, "_merge_peaks"):
        raise SystemExit(
            "this release of Selkies makes its recordings otherwise: run-selkies has to be adapted"
        )
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    server._recording_target = lambda _self, name: name
    # Each of pixelflux' 30 looks a second copies, compares and encodes the whole screen: 20 ms.
    fps = pop_number(os.environ, "PIXELFLUX_RECORD_FPS", 5.0)
    # A fifth of pixelflux' whole pictures, which are most of the recording of a screen at rest.
    keyframe_seconds = pop_number(os.environ, "PIXELFLUX_RECORD_KEYFRAME_S", 10.0)
    streamed = StreamPictures(watch)
    rate = RecordingRate(fps, lambda: streamed.is_watched)
    pace = RecordingPace(fps, keyframe_seconds, streamed)
    start, status = pixelflux.start_recording, pixelflux.recording_status

    def start_recording(path: str, _settings: Any, audio_socket: str) -> Any:
        capture = recorder_settings(rate.begin_recording(), keyframe_seconds)
        return with_less_priority(lambda: start(path, capture, audio_socket))

    recording = HandedRecording(recordings, runtime, start_recording, pixelflux.stop_recording)
    pixelflux.start_recording = recording.start
    pixelflux.recording_status = lambda: rate.note(pace.check(status()))
    sound = audio_control.opus_capture_settings

    def recording_sound(*args: Any) -> Any:
        """A recording does not need its sound soon: longer pieces take half of the CPU."""
        capture = sound(*args)
        capture.frame_duration_ms, capture.latency_ms = SOUND_MS, SOUND_LATENCY_MS
        return capture

    audio_control.opus_capture_settings = recording_sound  # streams have the other one already


def recorder_settings(fps: float, keyframe_seconds: float) -> Any:
    """Recordings are captured beside the stream, without its mark.

    One thread and one earlier picture take 30 MiB less than pixelflux' own choice.
    """
    capture = pixelflux.CaptureSettings()
    capture.codec, capture.video_fullframe, capture.capture_cursor = "h264", True, True
    capture.capture_width = capture.capture_height = 0  # the whole screen
    capture.cpu_encode_threading, capture.video_reference_frames = False, 1
    capture.target_fps, capture.keyframe_interval_s = fps, keyframe_seconds
    # x264 gives more bits to a picture that is shown longer: a screen at rest needs no better one.
    capture.video_crf = round(SHARP_CRF + 2.4 * math.log2(15 / fps))
    if settings.watermark_path:
        capture.watermark_path = settings.watermark_path.encode()
        capture.watermark_location_enum = int(settings.watermark_location)
    return capture


def with_less_priority(start: Callable[[], Any]) -> Any:
    """Its result. Threads that it starts yield to those of the stream, not to applications."""

    def run() -> Any:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), RECORDER_NICE)
        return start()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()
