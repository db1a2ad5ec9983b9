"""Tells the operator whether somebody uses this desktop, and shows its notices (bin/vdi-agent,
started by vdi-desktop). `server.py` has the order of a request, the other modules one service each.

    GET  /activity   {"idleSeconds": 12.3, "viewers": 1, "connectedSeconds": 40.1, "graphics": {...}}
    GET  /startup-scripts  what became of them, with their last lines (script_reports.py)
    GET  /memory     {"used": 1900000000, "limit": 2147483648, "isShort": true} (memory_use.py)
    GET  /thumbnail  a JPEG of the screen, at most 320 pixels wide and high and 15 kB (capture-thumbnail)
    POST /transfers  an event of Selkies' audit webhook, with Selkies' own token
    GET  /transfers?LOG&N  {"log": "...", "events": [{"number": 1, "age": 0.2, ...}]}
    GET  /files?PATH          a folder of the home: {"entries": [...], "isCut": false, "usedBytes": 1, "sizeBytes": 2}
    GET  /files/content?PATH  a file; a folder as zip, whose length is not known
    PUT  /files?PATH          a new file
    GET  /recording?NUMBER&STORED  the next piece of a recording, once so many bytes of number NUMBER are stored
    POST /recording  {"on": true}: start or end a recording on demand (recordings.py)
    POST /notice     {"id": "idle", "title": "...", "text": "...", "until": "2026-11-20T12:00:00Z", "untilInput": true}
    POST /photon     {"seconds": 30}
    POST /computer-use  an action of a software agent, where VDI_AGENTS allows it (computer_use.py): pixelflux's answer;
                        409 {"reason": "HumanInControl", "seconds": 4.2} for so long after a person's input
    POST /run        {"command": "...", "seconds": 30} -> {"exitCode": 0, "output": "..."}; null: killed at its time

/photon arms the mark that `vdi session probe` measures by (photon.py); what a probe presses, and
its coming, count neither as input nor as a visit. What can't be found out is an answer 503, never a
number.

Every request needs `Authorization: Bearer TOKEN`, with the token whose digest is in
VDI_AGENT_TOKEN_SHA256.
"""
