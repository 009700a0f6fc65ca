"""Answers through the client that AWS ships for custom images."""


def handler(event, context):
    if event.get("rawQueryString") == "raise":
        raise RuntimeError("asked to raise")
    return {"function": context.function_name, "path": event["rawPath"]}
