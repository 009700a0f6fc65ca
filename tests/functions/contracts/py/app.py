"""Does what the query asks: answers, prints, fails, hangs, exits or eats memory."""

import os
import sys
import time


def handler(event, context):
    query = event.get("queryStringParameters") or {}
    task = query.get("do", "answer")
    if task == "answer":
        return {"greeting": os.environ["GREETING"], "pid": os.getpid(), "path": event.get("rawPath"), "body": event.get("body")}
    if task == "context":
        return {
            "request_id": context.aws_request_id,
            "function": context.function_name,
            "version": context.function_version,
            "memory": context.memory_limit_in_mb,
            "remaining": context.get_remaining_time_in_millis(),
        }
    if task == "print":
        print("said on stdout")
        print("said on stderr", file=sys.stderr)
        return "printed"
    if task == "raise":
        raise ValueError("asked to raise")
    if task == "status":
        return {"statusCode": 418, "headers": {"x-kind": "teapot"}, "body": "short and stout"}
    if task == "sleep":
        print("falls asleep")
        time.sleep(float(query["seconds"]))
        return "slept"
    if task == "exit":
        os._exit(3)
    if task == "memory":
        hoard = bytearray(512 << 20)
        return len(hoard)
    raise KeyError(task)
