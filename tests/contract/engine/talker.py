"""A helper process that can misbehave: ``{"say": ..., "nap": seconds, "die": code, "raw": text}`` per line."""

import json
import os
import sys
import time

for line in sys.stdin:
    request = json.loads(line)
    time.sleep(request.get("nap", 0))
    if "die" in request:
        sys.exit(request["die"])
    if "raw" in request:
        print(request["raw"], flush=True)
    else:
        print(json.dumps({"say": request.get("say"), "pid": os.getpid()}), flush=True)
time.sleep(float(sys.argv[1]))
