#!/usr/bin/python3
"""Runs stress-ng as its own child: `GET /run?with=a,b,c&seconds=1` answers how it ended and what it printed.

The stressors run side by side, one worker each. stress-ng is left no time beyond its own: what it left behind is killed, as far as
this process may; the rest is the sandbox's business.
"""

import json
import os
import signal
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

STRESS = "/usr/bin/stress-ng"
GRACE = 10


def run(names, seconds):
    command = [STRESS, "--timeout", f"{seconds}s", "--metrics-brief", "--temp-path", "/tmp"]
    command += ["--no-rand-seed", "--oomable"]
    for name in names:
        command += [f"--{name}", "1"]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/tmp",
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=seconds + GRACE)
        ended = child.returncode
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        output, ended = b"", "late"
    return {"ended": ended, "output": output.decode(errors="replace")[-200_000:]}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = urlsplit(self.path)
        query = parse_qs(asked.query)
        answer = {"ok": True}
        if asked.path.endswith("/run"):
            answer = run(query["with"][0].split(","), int(query["seconds"][0]))
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return self.client_address[0]

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
